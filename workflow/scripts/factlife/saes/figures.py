"""Figures of sparse autoencoders and transcoders: every one reads a table."""

from __future__ import annotations

import altair as alt
import pandas as pd

_QUALITY = {
    "explained_variance": "explained variance",
    "explained_variance_before_value": "the same, before a value",
    "recall_preserved": "recall kept",
    "ce_loss_score": "loss recovered",
}
_COMPARED = {"dictionary": "features", "pca": "PCA, same rank", "mean": "mean (ablation)"}


def plot_quality(table: pd.DataFrame) -> alt.Chart:
    """What dictionaries keep of each layer, beside PCA of the same rank and the mean, one row a dictionary."""
    rows = table[table["metric"].isin(_QUALITY)].copy()
    rows["with"] = (
        rows["architecture"].where(rows["architecture"].isin([*_COMPARED, "zero"]), "dictionary").map(_COMPARED)
    )
    rows = rows.dropna(subset="with").assign(kept=rows["metric"].map(_QUALITY))
    rows["dictionary"] = rows["dictionary"] + ", " + rows["model"]
    base = alt.Chart(rows).encode(
        x=alt.X("layer:N", title="layer", axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("with:N", sort=[*_COMPARED.values()]),
        color=alt.Color("with:N", title="in its place", sort=[*_COMPARED.values()]),
    )
    points = base.mark_circle(size=50, opacity=1, clip=True).encode(
        y=alt.Y("estimate:Q", title="share", scale=alt.Scale(domain=[0, 1]))
    )
    intervals = base.mark_rule(strokeWidth=2, clip=True).encode(y=alt.Y("ci_low:Q"), y2="ci_high:Q")
    return (
        (intervals + points)
        .properties(width=190, height=150)
        .facet(
            row=alt.Row("dictionary:N", title=None, header=alt.Header(labelOrient="top", labelAnchor="start")),
            column=alt.Column("kept:N", title=None, sort=[*_QUALITY.values()]),
        )
    )
