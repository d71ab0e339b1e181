"""Figures of influence: every one reads the summary, so what is drawn is what the table says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import altair as alt
import pandas as pd

from factlife import figures

_RETRIEVAL = {"mrr": "reciprocal rank", "r_precision": "R-precision", "same_value_auc": "same-value AUC"}
_COMPOSITION = {
    "composition_subject": "the subject asked about",
    "composition_ancestor": "what it is made of",
    "composition_same_value": "others with its value",
    "composition_hard_negative": "hard negatives",
    "composition_other": "others",
}
_CHANCE = "#999999"
_APART = [colour for colour in figures.COLOURS if colour != _CHANCE]


def _rows(table: pd.DataFrame, **where: object) -> pd.DataFrame:
    rows = table[(table["query_set"] == "all") & (table["document_kind"] == "all")]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    rows = rows[rows["group"] != "all"]
    return rows.assign(panel=rows["model"] + ": " + rows["group"])


def _order(table: pd.DataFrame) -> list[str]:
    best = table[(table["metric"] == "mrr") & (table["relevance"] == "chain") & (table["document_kind"] == "all")]
    return best.groupby("ranker")["estimate"].mean().sort_values(ascending=False).index.tolist()


def _panels(rows: pd.DataFrame, by: str, draw: Callable[[pd.DataFrame], alt.Chart]) -> alt.ConcatChart:
    """A panel for each value of a column; unlike facets, each with the rankers that it has."""
    return alt.concat(*(draw(part).properties(title=name) for name, part in rows.groupby(by, sort=True)), columns=2)


def retrieval(table: pd.DataFrame) -> alt.Chart:
    """Three metrics of every ranker with intervals, one panel for each kind of query."""
    rows = _rows(table, relevance="chain")
    rows = rows[rows["metric"].isin(_RETRIEVAL)]
    rows = rows.assign(measure=rows["metric"].map(_RETRIEVAL))
    y = alt.Y("ranker:N", title=None, sort=_order(table))
    offset = alt.YOffset("measure:N", sort=[*_RETRIEVAL.values()])
    colour = alt.Color("measure:N", title=None, sort=[*_RETRIEVAL.values()])
    x = alt.X("estimate:Q", title="mean over queries", scale=alt.Scale(domain=[0, 1]))

    def draw(part: pd.DataFrame) -> alt.LayerChart:
        base = alt.Chart(part).encode(y=y, yOffset=offset, color=colour)
        spans = base.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2="ci_high:Q")
        return (spans + base.mark_circle(size=45, opacity=1).encode(x=x)).properties(width=240, height=alt.Step(12))

    return _panels(rows, "panel", draw)


def recall_at_k(table: pd.DataFrame) -> alt.Chart:
    """Share of relevant documents among the first k for as many of the best rankers as there are colours, and chance."""
    rows = _rows(table, relevance="chain", metric="recall")
    ranked = _order(table)
    colours = dict(zip([ranker for ranker in ranked if ranker != "random"], _APART, strict=False))
    colours |= {"random": _CHANCE} if "random" in ranked else {}
    rows = rows[rows["ranker"].isin(colours)]
    base = alt.Chart(rows).encode(
        x=alt.X("k:Q", title="documents looked at", scale=alt.Scale(type="log")),
        y=figures.share_axis("relevant documents found"),
        color=alt.Color("ranker:N", title="ranker", scale=alt.Scale(domain=[*colours], range=[*colours.values()])),
        detail="seed:N",
    )
    return (
        figures.with_band(base)
        .properties(width=240, height=190)
        .facet(facet=alt.Facet("panel:N", title=None, header=alt.Header(labelLimit=240)), columns=2)
    )


def composition(table: pd.DataFrame, k: int) -> alt.Chart:
    """What the first k documents of each ranker are about."""
    rows = _rows(table, relevance="chain", k=k)
    rows = rows[rows["metric"].isin(_COMPOSITION)]
    rows = rows.assign(
        about=rows["metric"].map(_COMPOSITION),
        order=rows["metric"].map({name: at for at, name in enumerate(_COMPOSITION)}),
    )
    rows = rows.groupby(["panel", "ranker", "about", "order"], as_index=False)["estimate"].mean()
    bars = alt.Chart().mark_bar().encode(
        x=alt.X("estimate:Q", title=f"share of the first {k} documents", scale=alt.Scale(domain=[0, 1])),
        y=alt.Y("ranker:N", title=None, sort=_order(table)),
        color=alt.Color("about:N", title="about", sort=[*_COMPOSITION.values()]),
        order="order:Q",
    )  # fmt: skip
    bars = bars.properties(width=240, height=alt.Step(18))
    return _panels(rows, "panel", lambda part: bars.properties(data=part))


def agreement(table: pd.DataFrame) -> alt.Chart:
    """Spearman's correlation of rankers' scores, mean over queries, as a heat map for each model."""
    rows = table[(table["metric"] == "spearman") & (table["group"] == "all") & (table["depth"] == "all")]
    rows = (
        rows[rows["query_set"] == "all"].groupby(["model", "ranker", "other_ranker"], as_index=False)["estimate"].mean()
    )
    turned = rows.rename(columns={"ranker": "other_ranker", "other_ranker": "ranker"})
    both = pd.concat([rows, turned])
    order = _order(table)
    base = alt.Chart().encode(
        x=alt.X("ranker:N", title=None, sort=order, axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("other_ranker:N", title=None, sort=order),
    )
    shade = alt.Color("estimate:Q", title="Spearman", scale=alt.Scale(scheme="purpleorange", domain=[-1, 1]))
    text = base.mark_text(fontSize=10).encode(text=alt.TokenizedText("estimate:Q", format=".2f"))
    drawn = alt.layer(base.mark_rect().encode(color=shade), text).properties(width=alt.Step(44), height=alt.Step(28))
    return _panels(both, "model", lambda part: drawn.properties(data=part))


_SWEPT = {"mrr": "reciprocal rank", "r_precision": "R-precision", "lds": "LDS"}
_RETRAINING = {
    "lds": "correlation over subsets",
    "loo": "correlation over documents left out",
    "removal_loss": "nats lost",
    "tail_patch": "nats gained by one step",
}
_TITLES = {"removal_loss": "documents removed", "tail_patch": "one step on documents"}


def retraining(table: pd.DataFrame) -> alt.Chart:
    """How well rankers foretell models on random subsets, and what models lose without the documents they put first."""
    rows = table[table["metric"].isin(_RETRAINING) & (table["query_set"] == "all")]
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
        bars = base.mark_rule(strokeWidth=2).encode(
            x=alt.X("ci_low:Q", title=_RETRAINING[metric], axis=alt.Axis(tickCount=5)), x2="ci_high:Q"
        )
        points = base.mark_circle(size=45, opacity=1).encode(x="estimate:Q")
        title = f"{model}: {_TITLES.get(metric, metric.upper())}"
        panels.append(alt.layer(zero, bars, points).properties(width=260, height=alt.Step(9), title=title))
    return alt.concat(*panels, columns=2)


def sweeps(table: pd.DataFrame, settings: Mapping[str, Mapping[str, Any]]) -> alt.Chart:
    """Scores of rankers against what is changed from one to the next: a row for each setting, a panel for each score.

    Args:
        table: the summary.
        settings: sweeps by name, as the config has them.
    """
    rows = table[(table["group"] == "all") & (table["depth"] == "all") & (table["query_set"] == "all")]
    rows = rows[~rows["relevance"].isin(["ancestors"]) & rows["document_kind"].isin(["all", ""]) & rows["k"].isna()]
    lines = []
    for sweep in settings.values():
        found = pd.DataFrame(sweep["points"]).merge(rows, on=["model", "ranker"])
        scale = alt.Scale(type="log") if sweep["log_scale"] else alt.Scale(zero=False)
        axis = alt.Axis(values=sorted({point["value"] for point in sweep["points"]}), format="~g")
        panels = []
        for metric, title in _SWEPT.items():
            # One point says nothing of what it is drawn against.
            if (part := found[found["metric"] == metric])["value"].nunique() < 2:
                continue
            base = alt.Chart(part).encode(
                x=alt.X("value:Q", title=sweep["title"], scale=scale, axis=axis),
                y=alt.Y("estimate:Q", title=title),
                color=alt.Color("curve:N", title=None),
                detail="seed:N",
            )
            panels.append(figures.with_band(base).properties(width=200, height=150))
        lines.append(alt.hconcat(*panels))
    return alt.vconcat(*lines).resolve_scale(color="independent")
