"""Figures of collapse: every one reads the summary, so what is drawn is what the table says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from factlife import figures
from factlife.collapse.analysis import STAGES
from factlife.collapse.formats import FORMATS
from factlife.collapse.summary import FREQUENCIES
from factlife.stats import LEVEL

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
    "judge_perplexity": "its perplexity to a fixed model",
    "parsed_share": "sentences that are whole",
    "gibberish": "sense, 0 (noise) to 3 (clean)",
    "entropy": "entropy of 16 words, nats",
    "distinct_2": "distinct word pairs",
    "words": "words in a text",
}  # fmt: skip


def _drawn(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds where an arm has several, the one seed where not."""
    several = set(table["arm"][table["seed"] == "all"])
    return table[(table["seed"] == "all") | ~table["arm"].isin(several)]


def _generations(rows: pd.DataFrame) -> alt.X:
    """An axis with one tick a generation: left alone, two generations would have ticks at halves."""
    return alt.X("generation:Q", title="generation", axis=alt.Axis(values=sorted(set(rows["generation"])), format="d"))


def _lines(rows: pd.DataFrame, title: str, arms: list[str], **scale: object) -> alt.LayerChart:
    base = alt.Chart(rows).encode(
        x=_generations(rows),
        y=alt.Y("estimate:Q", title=title, scale=alt.Scale(**scale)),
        color=alt.Color("arm:N", title="arm", sort=arms, scale=alt.Scale(domain=arms)),
        detail="seed:N",
    )
    if len(arms) > len(figures.COLOURS):
        # Colours come round again, then with broken lines.
        dashes = [[1, 0] if place < len(figures.COLOURS) else [5, 3] for place in range(len(arms))]
        base = base.encode(
            strokeDash=alt.StrokeDash("arm:N", title="arm", sort=arms, scale=alt.Scale(domain=arms, range=dashes))
        )
    return figures.line_with_band(base)


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


def lost(
    table: pd.DataFrame, stages: pd.DataFrame, families: Sequence[Mapping[float, str]]
) -> alt.Chart | alt.VConcatChart:
    """How much less each arm recalls than its control in its last generation, by frequency and by share.

    Args:
        table: of generations.
        stages: of arms, for thresholds.
        families: arms by their share of synthetic text; a panel for each.
    """
    rows = _drawn(table[table["metric"] == "recall_lost"])
    arms = list(rows["arm"].unique())
    rows = rows[rows["generation"] == rows.groupby("arm")["generation"].transform("max")]
    names = [_GROUPS[group] for group in ("all", *FREQUENCIES)]
    rows = rows.assign(group=rows["group"].map(_GROUPS))
    base = alt.Chart(rows).encode(
        y=alt.Y("group:N", sort=names, axis=None),
        color=alt.Color("group:N", title=None, sort=names, scale=alt.Scale(domain=names)),
    )
    x = alt.X("estimate:Q", title="recalled less than by the control, in the last generation")
    drawn = base.mark_rule(strokeWidth=2).encode(x="ci_low:Q", x2="ci_high:Q") + base.mark_circle(
        size=55, opacity=1
    ).encode(x=x)
    zero = alt.Chart(rows).mark_rule(color="#999").encode(x=alt.datum(0))
    row = alt.Row("arm:N", title=None, sort=arms, header=alt.Header(labelAngle=0, labelAlign="left", labelPadding=14))
    by_arm = (zero + drawn).properties(width=420, height=44).facet(row=row, spacing=6)
    if not families:
        return by_arm
    found = stages[(stages["analysis"] == "threshold") & (stages["metric"] == "share")]
    panels = [_by_share(rows, family, names, found) for family in families]
    return alt.vconcat(by_arm, *panels, spacing=30)


def _by_share(
    rows: pd.DataFrame, family: Mapping[float, str], names: list[str], thresholds: pd.DataFrame
) -> alt.LayerChart:
    """What is lost against the share of synthetic text; grey: the share from which on it is more than the control varies.

    The control, with a share of 0, loses nothing by definition.
    """
    shares = {arm: share for share, arm in family.items()}
    rows = rows[rows["arm"].isin(shares)].assign(share=rows["arm"].map(shares))
    threshold = thresholds[thresholds["arm"].isin(shares)]
    nothing = pd.DataFrame({"group": names, "share": 0.0, "estimate": 0.0, "ci_low": 0.0, "ci_high": 0.0})
    rows = pd.concat([nothing[nothing["group"].isin(rows["group"])], rows], ignore_index=True)
    axis = alt.Axis(values=sorted(set(rows["share"])), format="~g")
    # Side by side, so that no interval hides another.
    beside = rows["group"].map(names.index) - (len(names) - 1) / 2
    base = alt.Chart(rows.assign(share=rows["share"] + 0.012 * beside)).encode(
        x=alt.X("share:Q", title="share of synthetic text", axis=axis, scale=alt.Scale(domain=[0, 1], padding=10)),
        color=alt.Color("group:N", title=None, sort=names, scale=alt.Scale(domain=names)),
    )
    band = alt.Chart(threshold).mark_rect(color="#ddd", clip=True).encode(x="ci_low:Q", x2="ci_high:Q")
    at = alt.Chart(threshold).mark_rule(color="#666", strokeDash=[4, 3]).encode(x="estimate:Q")
    y = alt.Y("estimate:Q", title="recalled less than by the control")
    lines = base.mark_line(strokeWidth=1, opacity=0.5).encode(y=y)
    bars = base.mark_rule(strokeWidth=1.5).encode(y="ci_low:Q", y2="ci_high:Q")
    points = base.mark_circle(size=45, opacity=1).encode(y=y)
    return (band + at + lines + bars + points).properties(width=420, height=200)


_SHORT_STAGES = {"knowledge": "recall", "fluency": "whole sentences", "instructions": "questions answered"}


def stages(table: pd.DataFrame, found: pd.DataFrame, controls: dict[str, str]) -> alt.Chart:
    """What each stage's figure loses against the control, with the generation until which it goes with it, a panel an arm."""
    rows = []
    for stage, (indicator, group) in STAGES.items():
        values = table[(table["metric"] == indicator) & (table["group"] == group) & (table["seed"] != "all")]
        values = values.set_index(["arm", "seed", "generation"])["estimate"]
        for arm, control in controls.items():
            if {arm, control} <= set(values.index.get_level_values("arm")):
                gap = (values[arm] - values[control]).dropna().rename("gap").reset_index()
                rows.append(gap.assign(arm=arm, stage=_SHORT_STAGES[stage]))
    gaps = pd.concat(rows) if rows else pd.DataFrame(columns=["seed", "generation", "gap", "arm", "stage"])
    ends = found[(found["analysis"] == "stages") & (found["metric"] == "generation")]
    ends = ends.assign(stage=ends["indicator"].map(_SHORT_STAGES), gap=0.0)
    names = list(_SHORT_STAGES.values())
    color = alt.Color("stage:N", title=None, sort=names, scale=alt.Scale(domain=names))
    x = _generations(gaps)
    panels = []
    for arm in controls:
        mine, here = gaps[gaps["arm"] == arm], ends[ends["arm"] == arm]
        base = alt.Chart(mine).encode(x=x, color=color)
        y = alt.Y("gap:Q", title="less the control")
        lines = base.mark_line().encode(y=alt.Y("mean(gap):Q", title="less the control"))
        points = base.mark_circle(size=22, opacity=0.7).encode(y=y)
        mark = alt.Chart(here).encode(color=color, y="gap:Q")
        bars = mark.mark_rule(strokeWidth=4, opacity=0.35).encode(x="ci_low:Q", x2="ci_high:Q")
        diamonds = mark.mark_point(shape="diamond", size=90, filled=True, opacity=1).encode(x="estimate:Q")
        panels.append((lines + points + bars + diamonds).properties(width=230, height=160, title=arm))
    return alt.concat(*panels, columns=3).resolve_scale(y="shared")


def formats(table: pd.DataFrame, tests: pd.DataFrame) -> alt.Chart:
    """Accuracy by the format of the question, and in multiple-choice tests, a panel each; dashed: chance of the formats."""
    asked = _drawn(table[(table["metric"] == "accuracy") & table["group"].isin(FORMATS)])
    taken = _drawn(tests[(tests["metric"] == "accuracy") & (tests["subject"] == "all")])
    names = taken["test"] + ", " + taken["scoring"] + ", " + taken["shots"].astype(str) + " shots"
    rows = pd.concat([asked, taken.assign(group=names)], ignore_index=True)
    arms, panels = list(rows["arm"].unique()), []
    for group in [*[one for one in FORMATS if (rows["group"] == one).any()], *names.unique()]:
        chart = _lines(rows[rows["group"] == group], "accuracy", arms, domain=[0, 1])
        chart += alt.Chart(rows.head(1)).mark_rule(strokeDash=[4, 3], color="#555").encode(y=alt.datum(0.25))
        panels.append(chart.properties(width=210, height=150, title=group.replace("_", " ")))
    return alt.concat(*panels, columns=3)


def departures(stages: pd.DataFrame, arms: list[str]) -> alt.ConcatChart:
    """The generation from which on each figure stays outside the control's band, one panel an arm; earliest on top.

    Hollow: noise alone explains the chain as well, after Holm's correction.
    """
    rows = stages[(stages["analysis"] == "departure") & (stages["metric"] == "generation")]
    told = stages[(stages["analysis"] == "departure") & (stages["metric"] == "p_corrected")]
    told = told.set_index(["arm", "indicator"])["estimate"] < 1 - LEVEL
    rows = rows.assign(told=told.reindex(rows.set_index(["arm", "indicator"]).index, fill_value=False).to_numpy())
    rows = rows.assign(kind=rows["indicator"] == "recall", indicator=rows["indicator"].map(_short))
    color = alt.Color(
        "kind:N", legend=None, scale=alt.Scale(domain=[True, False], range=[figures.COLOURS[1], figures.COLOURS[0]])
    )
    x = alt.X(
        "estimate:Q",
        title="generation that leaves the control",
        scale=alt.Scale(domain=[0, math.ceil(rows["estimate"].max()) if len(rows) else 1], padding=5),
        axis=alt.Axis(tickMinStep=1, format="d"),
    )
    fill = alt.condition(alt.datum.told, color, alt.value("white"))
    panels = []
    for arm in arms:
        # What leaves together stands in the order of the alphabet, recall last: above it is what left before.
        of = rows[rows["arm"] == arm].sort_values(["estimate", "kind", "indicator"])
        if of.empty:
            continue
        base = alt.Chart(of).encode(y=alt.Y("indicator:N", title=None, sort=of["indicator"].tolist()), color=color)
        bars = base.mark_rule(strokeWidth=2, clip=True).encode(x="ci_low:Q", x2="ci_high:Q")
        points = base.mark_point(size=50, opacity=1, filled=True, strokeWidth=1.5).encode(x=x, stroke=color, fill=fill)
        panels.append((bars + points).properties(width=230, height=alt.Step(16), title=arm))
    if not panels:
        nothing = pd.DataFrame({"text": ["No figure leaves the control in any arm."]})
        panels = [alt.Chart(nothing).mark_text().encode(text="text:N")]
    return alt.concat(*panels, columns=2)


def _short(indicator: str) -> str:
    return indicator.replace("divergence_hellinger", "divergence").replace("_", " ")
