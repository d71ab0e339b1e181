"""Figures of the questions across stages."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from factlife.stats import cluster_bootstrap

_N_GROUPS = 5
_SIGNIFICANCE = ["p < .05", "p ≥ .05"]


def plot_effects(answers: pd.DataFrame) -> alt.Chart:
    """Effect and interval of every answered question."""
    rows = answers.dropna(subset="estimate").copy()
    rows["question"] = rows["predictor"] + " → " + rows["outcome"]
    rows["significance"] = np.where(rows["p_corrected"] < 0.05, *_SIGNIFICANCE)
    rows["run"] = [_run_label(row.model, row.seed) for row in rows.itertuples()]
    base = alt.Chart(rows).encode(
        y=alt.Y("question:N", title=None, axis=alt.Axis(labelLimit=500), sort=None),
        yOffset="run:N",
        color=alt.Color("run:N", title="model and seed"),
    )
    zero = alt.Chart().mark_rule(color="#888").encode(x=alt.datum(0))
    intervals = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("ci_low:Q", title="rank correlation", scale=alt.Scale(domain=[-1, 1])), x2="ci_high:Q"
    )
    points = base.mark_point(size=45, filled=True, opacity=1).encode(
        x="estimate:Q",
        shape=alt.Shape(
            "significance:N", title="corrected", scale=alt.Scale(domain=_SIGNIFICANCE, range=["circle", "cross"])
        ),
    )
    return alt.layer(zero, intervals, points, data=rows).properties(width=420, height=alt.Step(8))


def plot_outcomes(ledger: pd.DataFrame, answers: pd.DataFrame) -> alt.Chart:
    """Mean outcome by groups of the predictor, one panel per question."""
    parts = [_group_means(ledger, row) for row in answers.dropna(subset="estimate").itertuples()]
    empty = pd.DataFrame(columns=["question", "run", "predictor", "estimate", "ci_low", "ci_high"])
    rows = pd.concat([empty, *parts], ignore_index=True)
    base = alt.Chart(rows).encode(
        x=alt.X("predictor:Q", title="predictor", scale=alt.Scale(zero=False)), color=alt.Color("run:N", title="model")
    )
    intervals = base.mark_rule().encode(
        y=alt.Y("ci_low:Q", title="outcome", scale=alt.Scale(zero=False)), y2="ci_high:Q"
    )
    chart = intervals + base.mark_line(point=True).encode(y="estimate:Q")
    return (
        chart.properties(width=200, height=150)
        .facet(facet=alt.Facet("question:N", title=None, sort=None), columns=3)
        .resolve_scale(x="independent", y="independent")
    )


def _group_means(ledger: pd.DataFrame, answer: Any) -> pd.DataFrame:
    facts = ledger.dropna(subset=[answer.predictor, answer.outcome])
    if answer.model != "all":
        facts = facts[(facts["model"] == answer.model) & (facts["seed"].astype(str) == str(answer.seed))]
    x = facts[answer.predictor].astype(float)
    group = (
        x if x.nunique() <= _N_GROUPS else pd.qcut(x.rank(method="dense"), _N_GROUPS, labels=False, duplicates="drop")
    )
    rows = []
    for _, members in facts.groupby(group.to_numpy(), sort=True):
        values = members[[answer.outcome]].to_numpy(float)
        mean = cluster_bootstrap(values, members["entity_id"].to_numpy(), resamples=300)
        rows.append(
            {
                "question": f"{answer.predictor} → {answer.outcome}",
                "run": _run_label(answer.model, answer.seed),
                "predictor": members[answer.predictor].astype(float).mean(),
                "estimate": mean.estimate[0],
                "ci_low": mean.low[0],
                "ci_high": mean.high[0],
            }
        )
    return pd.DataFrame(rows)


def _run_label(model: str, seed: object) -> str:
    return "all models" if model == "all" else f"{model} {seed}"
