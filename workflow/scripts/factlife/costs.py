"""Costs of every job from Snakemake's benchmark files: seconds, processor seconds and memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import altair as alt
import pandas as pd

_JOB = ["rule", "model", "seed", "name"]
_METRICS = {"s": "seconds", "cpu_time": "cpu_seconds", "max_rss": "peak_memory_mb"}


def collect_costs(folder: str | Path) -> pd.DataFrame:
    """Costs of all jobs with benchmark files in a folder of logs.

    Args:
        folder: folder of files ``{rule}/…/{model}/seed-{seed}/….benchmark.jsonl``; the last line counts if a job
            ran more than once.

    Returns:
        One row per job and metric: ``rule, model, seed, name, metric, estimate``; ``name`` distinguishes
        jobs of the same rule, model and seed. ``seconds`` are wall-clock time, ``cpu_seconds`` sum over threads,
        ``startup_seconds`` is the wall-clock time before the job's work begins (Python and imports), and
        ``peak_memory_mb`` the largest resident set in MB. Values are null if a job was too short to be measured. The
        last row, of rule ``all``, is ``startup_fraction``: start-up time as a fraction of all seconds, over jobs with
        both.
    """
    rows = []
    for path in sorted(Path(folder).rglob("*.benchmark.jsonl")):
        if lines := path.read_text().splitlines():
            job, values = _job(path.relative_to(folder)), json.loads(lines[-1])
            rows += [(*job, metric, _number(values.get(key))) for key, metric in _METRICS.items()]
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
    """Processor seconds by rule, sorted by their sum; each segment is a job."""
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
    """Rule, model, seed and name of ``{rule}/{model}/seed-{seed}/{name}.benchmark.jsonl``, as far as the path has them."""
    rule, *parts = str(path).removesuffix(".benchmark.jsonl").split("/")
    for i, part in enumerate(parts):
        if seed := re.fullmatch(r"seed-(\d+)(.*)", part):
            rest = [*parts[: i - 1], seed[2].lstrip("."), *parts[i + 1 :]]
            return rule, parts[i - 1] if i else "", seed[1], "/".join(filter(None, rest))
    return rule, "", "", "/".join(parts)


def _startup(log: Path) -> float:
    match = re.search(r"start-up took ([\d.]+) seconds", log.read_text(errors="replace")) if log.exists() else None
    return float(match[1]) if match else float("nan")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
