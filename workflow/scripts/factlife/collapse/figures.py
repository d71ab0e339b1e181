"""Figures of collapse: every one reads the summary, so what is drawn is what the table says."""

from __future__ import annotations

import altair as alt
import pandas as pd

from factlife import figures
from factlife.collapse.summary import FREQUENCIES

_GROUPS = {
    "all": "all facts",
    "head": "most often stated third",
    "middle": "middle third",
    "tail": "least often stated third",
}
_TEXT = {
    "fact_precision": "facts stated that are true",
    "coverage": "facts stated truly, of all",
    "perplexity": "perplexity of held-out real text",
    "confidently_wrong": "sure and wrong",
    "judge_perplexity": "its perplexity to generation 0",
    "parsed_share": "sentences that are whole",
    "entropy": "entropy of 16 words, nats",
    "distinct_2": "distinct word pairs",
    "words": "words in a text",
}  # fmt: skip


def _drawn(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds where an arm has several, the one seed where not."""
    several = set(table["arm"][table["seed"] == "all"])
    return table[(table["seed"] == "all") | ~table["arm"].isin(several)]


def _lines(rows: pd.DataFrame, title: str, arms: list[str], **scale: object) -> alt.LayerChart:
    base = alt.Chart(rows).encode(
        x=alt.X("generation:Q", title="generation", axis=alt.Axis(tickMinStep=1, format="d")),
        y=alt.Y("estimate:Q", title=title, scale=alt.Scale(**scale)),
        color=alt.Color("arm:N", title="arm", sort=arms, scale=alt.Scale(domain=arms)),
        detail="seed:N",
    )
    return figures.with_band(base)


def recall(table: pd.DataFrame) -> alt.Chart:
    """Whole values recalled from generation to generation, one panel for each third of subjects by frequency."""
    rows = _drawn(table[table["metric"] == "recall"])
    arms = list(rows["arm"].unique())
    panels = [
        _lines(rows[rows["group"] == group], "whole value correct", arms, domain=[0, 1])
        .properties(width=200, height=200, title=_GROUPS[group])
        for group in ("all", *FREQUENCIES)
        if (rows["group"] == group).any()
    ]  # fmt: skip
    return alt.hconcat(*panels)


def text(table: pd.DataFrame) -> alt.Chart:
    """What generations write and how they judge real text, one panel a figure; dashed: as many real texts."""
    rows = _drawn(table)
    arms, panels = list(rows["arm"].unique()), []
    for metric, title in _TEXT.items():
        here = rows[(rows["metric"] == metric) & rows["group"].isin(["all", "synthetic"])]
        if here.empty:
            continue
        chart = _lines(here, "", arms, zero=False)
        real = rows[(rows["metric"] == metric) & (rows["group"] == "real")].drop_duplicates("metric")
        if len(real):
            chart += alt.Chart(real).mark_rule(strokeDash=[4, 3], color="#555").encode(y="estimate:Q")
        panels.append(chart.properties(width=210, height=150, title=title))
    return alt.concat(*panels, columns=3)


def departures(stages: pd.DataFrame, arms: list[str]) -> alt.Chart:
    """The generation from which on each figure stays outside the control's band, one panel an arm; earliest on top."""
    rows = stages[stages["analysis"] == "departure"]
    order = rows.groupby("indicator")["estimate"].mean().sort_values(kind="stable").index.tolist()
    rows = rows.assign(indicator=rows["indicator"].map(_short), kind=rows["indicator"] == "recall")
    base = alt.Chart(rows).encode(
        y=alt.Y("indicator:N", title=None, sort=[_short(name) for name in order]),
        color=alt.Color(
            "kind:N", legend=None, scale=alt.Scale(domain=[True, False], range=[figures.COLOURS[1], figures.COLOURS[0]])
        ),
    )
    x = alt.X(
        "estimate:Q",
        title="generation that leaves the control",
        scale=alt.Scale(zero=True),
        axis=alt.Axis(tickMinStep=1),
    )
    drawn = base.mark_rule(strokeWidth=2, clip=True).encode(x="ci_low:Q", x2="ci_high:Q") + base.mark_circle(
        size=55, opacity=1
    ).encode(x=x)
    drawn = drawn.properties(width=230, height=alt.Step(16))
    return drawn.facet(facet=alt.Facet("arm:N", title=None, sort=arms), columns=2)


def _short(indicator: str) -> str:
    return indicator.replace("divergence_hellinger", "divergence").replace("_", " ")
