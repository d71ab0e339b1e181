"""Influence: rank training documents by how much they taught a model a fact, and evaluate the rankings."""

from __future__ import annotations

from factlife.influence.errors import InfluenceError
from factlife.influence.queries import select_documents, select_queries
from factlife.influence.scores import read_all_scores, read_scores, write_scores
from factlife.influence.summary import correct_queries, evaluate_rankings, read_metrics, read_summary, summarise

__all__ = [
    "InfluenceError",
    "correct_queries",
    "evaluate_rankings",
    "read_all_scores",
    "read_metrics",
    "read_scores",
    "read_summary",
    "select_documents",
    "select_queries",
    "summarise",
    "write_scores",
]
