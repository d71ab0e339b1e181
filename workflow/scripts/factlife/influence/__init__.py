"""Influence: which documents taught a model a fact, by rankers that are judged against known truth."""

from __future__ import annotations

from factlife.influence.errors import InfluenceError
from factlife.influence.queries import pool, select
from factlife.influence.scores import read, read_all, write
from factlife.influence.summary import answered, judge_all, read_judged, read_summary, summarise

__all__ = [
    "InfluenceError",
    "answered",
    "judge_all",
    "pool",
    "read",
    "read_all",
    "read_judged",
    "read_summary",
    "select",
    "summarise",
    "write",
]
