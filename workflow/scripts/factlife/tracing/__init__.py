"""Causal tracing: the tokens and layers whose states carry a fact."""

from factlife.tracing.summary import peak_location, read_summary, read_traces, summarise_traces

__all__ = ["peak_location", "read_summary", "read_traces", "summarise_traces"]
