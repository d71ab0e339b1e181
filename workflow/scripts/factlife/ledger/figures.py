"""Figures of the questions across stages."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from factlife.stats import cluster_bootstrap

_GROUPS = 5
_CLEAR = ["p < .05", "p ≥ .05"]


def plot_effects(answers: pd.DataFrame) -> alt.Chart:
    """Every answered question's effect with its interval."""
    rows = answers.dropna(subset="estimate").copy()
    rows["asked"] = rows["predictor"] + " → " + rows["outcome"]
    rows["clear"] = np.where(rows["p_corrected"] < 0.05, *_CLEAR)
    rows["of"] = [_of(row.model, row.seed) for row in rows.itertuples()]
    base = alt.Chart(rows).encode(
        y=alt.Y("asked:N", title=None, axis=alt.Axis(labelLimit=500), sort=None),
        yOffset="of:N",
        color=alt.Color("of:N", title="model and seed"),
    )
    zero = alt.Chart().mark_rule(color="#888").encode(x=alt.datum(0))
    spans = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("ci_low:Q", title="rank correlation", scale=alt.Scale(domain=[-1, 1])), x2="ci_high:Q"
    )
    points = base.mark_point(size=45, filled=True, opacity=1).encode(
        x="estimate:Q",
        shape=alt.Shape("clear:N", title="corrected", scale=alt.Scale(domain=_CLEAR, range=["circle", "cross"])),
    )
    return alt.layer(zero, spans, points, data=rows).properties(width=420, height=alt.Step(8))


def plot_outcomes(ledger: pd.DataFrame, answers: pd.DataFrame) -> alt.Chart:
    """Mean outcome by groups of the predictor, one panel a question."""
    parts = [_groups(ledger, row) for row in answers.dropna(subset="estimate").itertuples()]
    empty = pd.DataFrame(columns=["asked", "of", "predictor", "estimate", "ci_low", "ci_high"])
    rows = pd.concat([empty, *parts], ignore_index=True)
    base = alt.Chart(rows).encode(
        x=alt.X("predictor:Q", title="predictor", scale=alt.Scale(zero=False)), color=alt.Color("of:N", title="model")
    )
    spans = base.mark_rule().encode(y=alt.Y("ci_low:Q", title="outcome", scale=alt.Scale(zero=False)), y2="ci_high:Q")
    drawn = spans + base.mark_line(point=True).encode(y="estimate:Q")
    return (
        drawn.properties(width=200, height=150)
        .facet(facet=alt.Facet("asked:N", title=None, sort=None), columns=3)
        .resolve_scale(x="independent", y="independent")
    )


def _groups(ledger: pd.DataFrame, answer: object) -> pd.DataFrame:
    facts = ledger.dropna(subset=[answer.predictor, answer.outcome])
    if answer.model != "all":
        facts = facts[(facts["model"] == answer.model) & (facts["seed"].astype(str) == str(answer.seed))]
    x = facts[answer.predictor].astype(float)
    group = x if x.nunique() <= _GROUPS else pd.qcut(x.rank(method="dense"), _GROUPS, labels=False, duplicates="drop")
    rows = []
    for _, members in facts.groupby(group.to_numpy(), sort=True):
        values = members[[answer.outcome]].to_numpy(float)
        found = cluster_bootstrap(values, members["entity_id"].to_numpy(), resamples=300)
        rows.append(
            {
                "asked": f"{answer.predictor} → {answer.outcome}",
                "of": _of(answer.model, answer.seed),
                "predictor": members[answer.predictor].astype(float).mean(),
                "estimate": found.estimate[0],
                "ci_low": found.low[0],
                "ci_high": found.high[0],
            }
        )
    return pd.DataFrame(rows)


def _of(model: str, seed: object) -> str:
    return "all models" if model == "all" else f"{model} {seed}"
