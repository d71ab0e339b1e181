"""What every job cost: seconds, processor seconds and memory, from Snakemake's benchmark files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import altair as alt
import pandas as pd

_JOB = ["rule", "model", "seed", "name"]
_METRICS = {"s": "seconds", "cpu_time": "cpu_seconds", "max_rss": "peak_memory_mb"}


def collect_costs(folder: str | Path) -> pd.DataFrame:
    """Costs of all jobs whose benchmark files lie in a folder of logs.

    Args:
        folder: with files ``{rule}/…/{model}/seed-{seed}/….benchmark.jsonl``; a job made twice has two lines, of which
            the last counts.

    Returns:
        One row per job and metric: ``rule, model, seed, name, metric, estimate``; ``name`` is what tells the job from
        others of its rule, model and seed. Seconds are of the wall, ``cpu_seconds`` of all threads, ``startup_seconds``
        those of the wall that went by before the job's work began (Python and imports), ``peak_memory_mb`` the largest
        resident set in MB. What a short job was too quick to have measured is null. The last row, of rule ``all``, is
        ``startup_fraction``: start-up of all seconds, over jobs that have both.
    """
    rows = []
    for path in sorted(Path(folder).rglob("*.benchmark.jsonl")):
        if lines := path.read_text().splitlines():
            job, found = _job(path.relative_to(folder)), json.loads(lines[-1])
            rows += [(*job, metric, _number(found.get(key))) for key, metric in _METRICS.items()]
            rows.append((*job, "startup_seconds", _startup(Path(str(path).removesuffix(".benchmark.jsonl") + ".log"))))
    table = pd.DataFrame(rows, columns=[*_JOB, "metric", "estimate"])
    both = table.pivot_table(index=_JOB, columns="metric", values="estimate").reindex(
        columns=["startup_seconds", "seconds"]
    )
    total = both.dropna().sum()
    if total["seconds"]:
        table.loc[len(table)] = ("all", "", "", "", "startup_fraction", total["startup_seconds"] / total["seconds"])
    return table


def plot_costs(costs: pd.DataFrame) -> alt.Chart:
    """Processor seconds by rule, in the order of their sum, each job a segment."""
    rows = costs[costs["metric"] == "cpu_seconds"].copy()
    rows["job"] = rows[["model", "seed", "name"]].astype(str).agg(" ".join, axis=1)
    return (
        alt.Chart(rows)
        .mark_bar(stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X("sum(estimate):Q", title="processor seconds"),
            y=alt.Y("rule:N", title=None, sort="-x"),
            detail="job:N",
        )
        .properties(width=480)
    )


def _job(path: Path) -> tuple[str, str, str, str]:
    """Rule, model, seed and name of ``{rule}/{model}/seed-{seed}/{name}.benchmark.jsonl``, where it has them."""
    rule, *parts = str(path).removesuffix(".benchmark.jsonl").split("/")
    for place, part in enumerate(parts):
        if seed := re.fullmatch(r"seed-(\d+)(.*)", part):
            rest = [*parts[: place - 1], seed[2].lstrip("."), *parts[place + 1 :]]
            return rule, parts[place - 1] if place else "", seed[1], "/".join(filter(None, rest))
    return rule, "", "", "/".join(parts)


def _startup(log: Path) -> float:
    said = re.search(r"start-up took ([\d.]+) seconds", log.read_text(errors="replace")) if log.exists() else None
    return float(said[1]) if said else float("nan")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
