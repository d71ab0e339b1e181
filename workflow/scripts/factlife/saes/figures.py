"""Figures of sparse autoencoders and transcoders, drawn from their table."""

from __future__ import annotations

import altair as alt
import pandas as pd

_METRICS = {
    "explained_variance": "explained variance",
    "explained_variance_before_value": "explained variance before a value",
    "recall_preserved": "recall preserved",
    "ce_loss_score": "loss recovered",
}
_REPLACEMENTS = {"dictionary": "features", "pca": "PCA, same rank", "mean": "mean (ablation)"}


def plot_quality(table: pd.DataFrame) -> alt.Chart:
    """Quality of each dictionary by layer, compared with PCA of the same rank and with the mean; one row per dictionary."""
    rows = table[table["metric"].isin(_METRICS)].copy()
    is_control = rows["architecture"].isin([*_REPLACEMENTS, "zero"])
    rows["replacement"] = rows["architecture"].where(is_control, "dictionary").map(_REPLACEMENTS)
    rows = rows.dropna(subset="replacement").assign(panel=rows["metric"].map(_METRICS))
    rows["dictionary"] = rows["dictionary"] + ", " + rows["model"]
    base = alt.Chart(rows).encode(
        x=alt.X("layer:N", title="layer", axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("replacement:N", sort=[*_REPLACEMENTS.values()]),
        color=alt.Color("replacement:N", title="activation replaced by", sort=[*_REPLACEMENTS.values()]),
    )
    points = base.mark_circle(size=50, opacity=1, clip=True).encode(
        y=alt.Y("estimate:Q", title="fraction", scale=alt.Scale(domain=[0, 1]))
    )
    intervals = base.mark_rule(strokeWidth=2, clip=True).encode(y=alt.Y("ci_low:Q"), y2="ci_high:Q")
    return (
        (intervals + points)
        .properties(width=190, height=150)
        .facet(
            row=alt.Row("dictionary:N", title=None, header=alt.Header(labelOrient="top", labelAnchor="start")),
            column=alt.Column("panel:N", title=None, sort=[*_METRICS.values()]),
        )
    )
