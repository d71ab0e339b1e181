"""Tracing: which token and layer carry a fact."""

from factlife.tracing.interchange import switched_answers

__all__ = ["switched_answers"]
