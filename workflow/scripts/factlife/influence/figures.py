"""Figures of influence, plotted from the summary table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import altair as alt
import pandas as pd

from factlife import figures

_RETRIEVAL = {"mrr": "reciprocal rank", "r_precision": "R-precision", "same_value_auc": "same-value AUC"}
_COMPOSITION = {
    "composition_subject": "the query's subject",
    "composition_ancestor": "ancestors in the chain",
    "composition_same_value": "others with the same value",
    "composition_hard_negative": "hard negatives",
    "composition_other": "others",
}
_RANDOM_COLOUR = "#999999"
_RANKER_COLOURS = [colour for colour in figures.COLOURS if colour != _RANDOM_COLOUR]


def _select_rows(table: pd.DataFrame, **conditions: object) -> pd.DataFrame:
    rows = table[(table["query_set"] == "all") & (table["document_kind"] == "all")]
    for column, value in conditions.items():
        rows = rows[rows[column] == value]
    rows = rows[rows["group"] != "all"]
    return rows.assign(panel=rows["model"] + ": " + rows["group"])


def _ranker_order(table: pd.DataFrame) -> list[str]:
    mrr = table[(table["metric"] == "mrr") & (table["relevance"] == "chain") & (table["document_kind"] == "all")]
    return mrr.groupby("ranker")["estimate"].mean().sort_values(ascending=False).index.tolist()


def _panels(rows: pd.DataFrame, by: str, draw: Callable[[pd.DataFrame], alt.Chart]) -> alt.ConcatChart:
    """One panel per value of a column; unlike a facet, each panel shows only its own rankers."""
    return alt.concat(*(draw(part).properties(title=name) for name, part in rows.groupby(by, sort=True)), columns=2)


def plot_retrieval(table: pd.DataFrame) -> alt.Chart:
    """Three metrics of every ranker with intervals, one panel per kind of query."""
    rows = _select_rows(table, relevance="chain")
    rows = rows[rows["metric"].isin(_RETRIEVAL)]
    rows = rows.assign(measure=rows["metric"].map(_RETRIEVAL))
    y = alt.Y("ranker:N", title=None, sort=_ranker_order(table))
    offset = alt.YOffset("measure:N", sort=[*_RETRIEVAL.values()])
    colour = alt.Color("measure:N", title=None, sort=[*_RETRIEVAL.values()])
    x = alt.X("estimate:Q", title="mean over queries", scale=alt.Scale(domain=[0, 1]))

    def draw(part: pd.DataFrame) -> alt.LayerChart:
        base = alt.Chart(part).encode(y=y, yOffset=offset, color=colour)
        intervals = base.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2="ci_high:Q")
        return (intervals + base.mark_circle(size=45, opacity=1).encode(x=x)).properties(width=240, height=alt.Step(12))

    return _panels(rows, "panel", draw)


def plot_recall_at_k(table: pd.DataFrame) -> alt.Chart:
    """Recall at k for the best rankers, as many as there are colours, and for the random ranker."""
    rows = _select_rows(table, relevance="chain", metric="recall")
    order = _ranker_order(table)
    colours = dict(zip([ranker for ranker in order if ranker != "random"], _RANKER_COLOURS, strict=False))
    colours |= {"random": _RANDOM_COLOUR} if "random" in order else {}
    rows = rows[rows["ranker"].isin(colours)]
    base = alt.Chart(rows).encode(
        x=alt.X("k:Q", title="k, number of top documents", scale=alt.Scale(type="log")),
        y=figures.fraction_axis("recall@k"),
        color=alt.Color("ranker:N", title="ranker", scale=alt.Scale(domain=[*colours], range=[*colours.values()])),
        detail="seed:N",
    )
    return (
        figures.line_with_band(base)
        .properties(width=240, height=190)
        .facet(facet=alt.Facet("panel:N", title=None, header=alt.Header(labelLimit=240)), columns=2)
    )


def plot_composition(table: pd.DataFrame, k: int) -> alt.Chart:
    """Subjects of the top k documents of each ranker."""
    rows = _select_rows(table, relevance="chain", k=k)
    rows = rows[rows["metric"].isin(_COMPOSITION)]
    rows = rows.assign(
        about=rows["metric"].map(_COMPOSITION),
        order=rows["metric"].map({name: i for i, name in enumerate(_COMPOSITION)}),
    )
    rows = rows.groupby(["panel", "ranker", "about", "order"], as_index=False)["estimate"].mean()
    bars = alt.Chart().mark_bar().encode(
        x=alt.X("estimate:Q", title=f"fraction of the top {k} documents", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("ranker:N", title=None, sort=_ranker_order(table)),
        color=alt.Color("about:N", title="about", sort=[*_COMPOSITION.values()]),
        order="order:Q",
    )  # fmt: skip
    bars = bars.properties(width=240, height=alt.Step(18))
    return _panels(rows, "panel", lambda part: bars.properties(data=part))


def plot_agreement(table: pd.DataFrame) -> alt.Chart:
    """Spearman's correlation of rankers' scores, mean over queries, as a heat map per model."""
    rows = table[(table["metric"] == "spearman") & (table["group"] == "all") & (table["depth"] == "all")]
    rows = (
        rows[rows["query_set"] == "all"].groupby(["model", "ranker", "other_ranker"], as_index=False)["estimate"].mean()
    )
    mirrored = rows.rename(columns={"ranker": "other_ranker", "other_ranker": "ranker"})
    order = _ranker_order(table)
    base = alt.Chart().encode(
        x=alt.X("ranker:N", title=None, sort=order, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("other_ranker:N", title=None, sort=order),
    )
    colour = alt.Color("estimate:Q", title="Spearman", scale=alt.Scale(scheme="purpleorange", domain=[-1, 1]))
    text = base.mark_text(fontSize=10).encode(text=alt.Text("estimate:Q", format=".2f"))
    heat_map = alt.layer(base.mark_rect().encode(color=colour), text)
    heat_map = heat_map.properties(width=alt.Step(44), height=alt.Step(28))
    return _panels(pd.concat([rows, mirrored]), "model", lambda part: heat_map.properties(data=part))


_SWEEP_METRICS = {"mrr": "reciprocal rank", "r_precision": "R-precision", "lds": "LDS"}
_RETRAINING_AXES = {
    "lds": "correlation over subsets",
    "loo": "correlation over left-out documents",
    "removal_loss": "increase in loss (nats)",
    "tail_patch": "gain in log probability (nats)",
}
_RETRAINING_TITLES = {"removal_loss": "top documents removed", "tail_patch": "tail patch"}


def plot_retraining(table: pd.DataFrame) -> alt.Chart:
    """How well rankers predict retrained models, and the effects of removing or training on their top documents."""
    rows = table[table["metric"].isin(_RETRAINING_AXES) & (table["query_set"] == "all")]
    rows = rows[(rows["group"] != "all") | (rows["depth"] == "all")]
    panels = []
    for (metric, model), part in rows.groupby(["metric", "model"], sort=True):
        order = part[part["group"] == "all"].groupby("ranker")["estimate"].mean().sort_values(ascending=False).index
        base = alt.Chart(part).encode(
            y=alt.Y("ranker:N", title=None, sort=order.tolist()),
            yOffset=alt.YOffset("group:N"),
            color=alt.Color("group:N", title="queries"),
        )
        zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color="#888").encode(x="x:Q")
        intervals = base.mark_rule(strokeWidth=2).encode(
            x=alt.X("ci_low:Q", title=_RETRAINING_AXES[metric], axis=alt.Axis(tickCount=5)), x2="ci_high:Q"
        )
        points = base.mark_circle(size=45, opacity=1).encode(x="estimate:Q")
        title = f"{model}: {_RETRAINING_TITLES.get(metric, metric.upper())}"
        panels.append(alt.layer(zero, intervals, points).properties(width=260, height=alt.Step(9), title=title))
    return alt.concat(*panels, columns=2)


def plot_sweeps(table: pd.DataFrame, settings: Mapping[str, Mapping[str, Any]]) -> alt.Chart:
    """Metrics of rankers as a function of one setting: one row per sweep, one panel per metric.

    Args:
        table: the summary.
        settings: sweeps by name, as in the config.
    """
    rows = table[(table["group"] == "all") & (table["depth"] == "all") & (table["query_set"] == "all")]
    rows = rows[~rows["relevance"].isin(["ancestors"]) & rows["document_kind"].isin(["all", ""]) & rows["k"].isna()]
    sweep_rows = []
    for sweep in settings.values():
        points = pd.DataFrame(sweep["points"]).merge(rows, on=["model", "ranker"])
        scale = alt.Scale(type="log") if sweep["log_scale"] else alt.Scale(zero=False)
        axis = alt.Axis(values=sorted({point["value"] for point in sweep["points"]}), format="~g")
        panels = []
        for metric, title in _SWEEP_METRICS.items():
            # A single value of the setting makes no curve.
            if (part := points[points["metric"] == metric])["value"].nunique() < 2:
                continue
            base = alt.Chart(part).encode(
                x=alt.X("value:Q", title=sweep["title"], scale=scale, axis=axis),
                y=alt.Y("estimate:Q", title=title),
                color=alt.Color("curve:N", title=None),
                detail="seed:N",
            )
            panels.append(figures.line_with_band(base).properties(width=200, height=150))
        sweep_rows.append(alt.hconcat(*panels))
    return alt.vconcat(*sweep_rows).resolve_scale(color="independent")
