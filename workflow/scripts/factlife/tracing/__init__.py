"""Tracing: which token and layer carry a fact."""

from factlife.tracing.summary import peak, read, read_table, summarise

__all__ = ["peak", "read", "read_table", "summarise"]
