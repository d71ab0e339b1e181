"""Figures of collapse. Every figure reads the summary tables and shows one block of panels for each model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from factlife import figures
from factlife.collapse.analysis import STAGES
from factlife.collapse.formats import FORMATS
from factlife.collapse.summary import FREQUENCIES
from factlife.stats import LEVEL

_GROUP_TITLES = {
    "all": "all facts",
    "head": "most frequent third",
    "middle": "middle third",
    "tail": "least frequent third",
}
_TEXT_TITLES = {
    "fact_precision": "true statements / all statements",
    "coverage": "facts stated correctly / all facts",
    "perplexity": "perplexity of held-out real text",
    "confidently_wrong": "confidently wrong",
    "generative_perplexity": "perplexity of generated text",
    "parsed_fraction": "well-formed sentences",
    "gibberish_level": "0 (noise) to 3 (clean)",
    "entropy": "entropy of 16 words, nats",
    "distinct_2": "distinct bigrams",
    "words_per_text": "words per text",
}  # fmt: skip


def _pooled_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds for arms with several seeds, the only seed for all others."""
    arms, is_pooled = pd.MultiIndex.from_frame(table[["model", "arm"]]), table["seed"] == "all"
    return table[is_pooled | ~arms.isin(arms[is_pooled])]


def _by_model(*tables: pd.DataFrame) -> Iterator[tuple[str, *tuple[pd.DataFrame, ...]]]:
    """Each model, with its rows of all tables."""
    for model in dict.fromkeys(model for table in tables for model in table["model"].unique()):
        yield model, *(table[table["model"] == model] for table in tables)


def _stack_models(blocks: Mapping[str, Any], no_blocks: str = "Nothing was measured.") -> Any:
    """One block below the other, with the name of the model above it where there are several.

    Args:
        blocks: a chart for each model.
        no_blocks: text to show if there are none.
    """
    if not blocks:
        return alt.Chart(pd.DataFrame({"text": [no_blocks]})).mark_text().encode(text="text:N")
    if len(blocks) == 1:
        return next(iter(blocks.values()))
    titles = {model: alt.TitleParams(model, anchor="start", fontSize=15, offset=12) for model in blocks}
    return alt.vconcat(*(block.properties(title=titles[model]) for model, block in blocks.items()), spacing=40)


def _generation_axis(rows: pd.DataFrame) -> alt.X:
    """An axis with one tick per generation; the default would put ticks at halves for two generations."""
    return alt.X("generation:Q", title="generation", axis=alt.Axis(values=sorted(set(rows["generation"])), format="d"))


def _lines(rows: pd.DataFrame, title: str, arms: list[str], **scale: object) -> alt.LayerChart:
    base = alt.Chart(rows).encode(
        x=_generation_axis(rows),
        y=alt.Y("estimate:Q", title=title, scale=alt.Scale(**scale)),
        color=alt.Color("arm:N", title="arm", sort=arms, scale=alt.Scale(domain=arms)),
        detail="seed:N",
    )
    if len(arms) > len(figures.COLOURS):
        # Colours repeat after the last one, with dashed lines.
        dashes = [[1, 0] if i < len(figures.COLOURS) else [5, 3] for i in range(len(arms))]
        base = base.encode(
            strokeDash=alt.StrokeDash("arm:N", title="arm", sort=arms, scale=alt.Scale(domain=arms, range=dashes))
        )
    return figures.line_with_band(base)


def plot_recall(table: pd.DataFrame) -> alt.Chart:
    """Recall by generation, with one panel for all facts and one for each third of subjects by frequency."""
    table = _pooled_rows(table[table["metric"] == "recall"])
    arms, blocks = list(table["arm"].unique()), {}
    for model, rows in _by_model(table):
        panels = [
            _lines(rows[rows["group"] == group], "recall", arms, domain=[0, 1])
            .properties(width=200, height=200, title=_GROUP_TITLES[group])
            for group in ("all", *FREQUENCIES)
            if (rows["group"] == group).any()
        ]  # fmt: skip
        blocks[model] = alt.hconcat(*panels)
    return _stack_models(blocks)


def plot_text(table: pd.DataFrame) -> alt.Chart:
    """Metrics of generated text and of real text, one panel each; dashed: the same number of real texts."""
    table = _pooled_rows(table)
    arms = list(table["arm"].unique())
    return _stack_models({model: _plot_text_of_model(rows, arms) for model, rows in _by_model(table)})


def _plot_text_of_model(rows: pd.DataFrame, arms: list[str]) -> alt.ConcatChart:
    panels = []
    for metric, title in _TEXT_TITLES.items():
        metric_rows = rows[(rows["metric"] == metric) & rows["group"].isin(["all", "synthetic"])]
        if metric_rows.empty:
            continue
        chart = _lines(metric_rows, "", arms, zero=False)
        real = rows[(rows["metric"] == metric) & (rows["group"] == "real")].drop_duplicates("metric")
        if len(real):
            chart += alt.Chart(real).mark_rule(strokeDash=[4, 3], color="#555").encode(y="estimate:Q")
        panels.append(chart.properties(width=210, height=150, title=title))
    return alt.concat(*panels, columns=3)


def plot_recall_drop(
    table: pd.DataFrame, stages: pd.DataFrame, sweeps: Mapping[str, Sequence[Mapping[float, str]]]
) -> alt.FacetChart | alt.VConcatChart:
    """Recall drop against the control in each arm's last generation, by frequency and by synthetic fraction.

    Args:
        table: summary of the generations.
        stages: comparison of the arms with their controls, for the thresholds.
        sweeps: for each model, arms by their synthetic fraction, with one panel for each sweep.
    """
    table = _pooled_rows(table[table["metric"] == "recall_drop"])
    blocks = {
        model: _plot_recall_drop_of_model(rows, stage_rows, sweeps.get(model, []))
        for model, rows, stage_rows in _by_model(table, stages)
    }
    return _stack_models(blocks, "No arm has a control.")


def _plot_recall_drop_of_model(
    rows: pd.DataFrame, stages: pd.DataFrame, sweeps: Sequence[Mapping[float, str]]
) -> alt.FacetChart | alt.VConcatChart:
    arms = list(rows["arm"].unique())
    rows = rows[rows["generation"] == rows.groupby("arm")["generation"].transform("max")]
    titles = [_GROUP_TITLES[group] for group in ("all", *FREQUENCIES)]
    rows = rows.assign(group=rows["group"].map(_GROUP_TITLES))
    base = alt.Chart(rows).encode(
        y=alt.Y("group:N", sort=titles, axis=None),
        color=alt.Color("group:N", title=None, sort=titles, scale=alt.Scale(domain=titles)),
    )
    x = alt.X("estimate:Q", title="recall of the control minus recall of the arm, last generation")
    bars = base.mark_rule(strokeWidth=2).encode(x="ci_low:Q", x2="ci_high:Q")
    points = base.mark_circle(size=55, opacity=1).encode(x=x)
    zero = alt.Chart(rows).mark_rule(color="#999").encode(x=alt.datum(0))
    row = alt.Row("arm:N", title=None, sort=arms, header=alt.Header(labelAngle=0, labelAlign="left", labelPadding=14))
    by_arm = (zero + (bars + points)).properties(width=420, height=44).facet(row=row, spacing=6)
    if not sweeps:
        return by_arm
    thresholds = stages[(stages["analysis"] == "threshold") & (stages["metric"] == "synthetic_fraction")]
    panels = [_plot_sweep(rows, sweep, titles, thresholds) for sweep in sweeps]
    return alt.vconcat(by_arm, *panels, spacing=30)


def _plot_sweep(
    rows: pd.DataFrame, sweep: Mapping[float, str], titles: list[str], thresholds: pd.DataFrame
) -> alt.LayerChart:
    """Recall drop by synthetic fraction; grey: the threshold above which it exceeds the control's variation.

    The control, with a fraction of 0, has a drop of 0 by definition.
    """
    fractions = {arm: fraction for fraction, arm in sweep.items()}
    rows = rows[rows["arm"].isin(fractions)].assign(fraction=rows["arm"].map(fractions))
    threshold = thresholds[thresholds["arm"].isin(fractions)]
    origin = pd.DataFrame({"group": titles, "fraction": 0.0, "estimate": 0.0, "ci_low": 0.0, "ci_high": 0.0})
    rows = pd.concat([origin[origin["group"].isin(rows["group"])], rows], ignore_index=True)
    axis = alt.Axis(values=sorted(set(rows["fraction"])), format="~g")
    # Groups are shifted sideways so that no interval hides another.
    shift = rows["group"].map(titles.index) - (len(titles) - 1) / 2
    base = alt.Chart(rows.assign(fraction=rows["fraction"] + 0.012 * shift)).encode(
        x=alt.X("fraction:Q", title="synthetic fraction", axis=axis, scale=alt.Scale(domain=[0, 1], padding=10)),
        color=alt.Color("group:N", title=None, sort=titles, scale=alt.Scale(domain=titles)),
    )
    band = alt.Chart(threshold).mark_rect(color="#ddd", clip=True).encode(x="ci_low:Q", x2="ci_high:Q")
    line = alt.Chart(threshold).mark_rule(color="#666", strokeDash=[4, 3]).encode(x="estimate:Q")
    y = alt.Y("estimate:Q", title="recall drop against the control")
    lines = base.mark_line(strokeWidth=1, opacity=0.5).encode(y=y)
    bars = base.mark_rule(strokeWidth=1.5).encode(y="ci_low:Q", y2="ci_high:Q")
    points = base.mark_circle(size=45, opacity=1).encode(y=y)
    return (band + line + lines + bars + points).properties(width=420, height=200)


_STAGE_TITLES = {
    "knowledge": "recall",
    "fluency": "well-formed sentences",
    "instruction_following": "questions answered",
}


def plot_stages(
    table: pd.DataFrame, stages: pd.DataFrame, controls: Mapping[str, Mapping[str, str]]
) -> alt.ConcatChart | alt.VConcatChart:
    """Each stage's indicator minus the control's, with the last generation of the stage, one panel per arm.

    Args:
        table: summary of the generations.
        stages: comparison of the arms with their controls.
        controls: for each model, the control of each arm.
    """
    blocks = {
        model: _plot_stages_of_model(rows, stage_rows, controls[model])
        for model, rows, stage_rows in _by_model(table, stages)
        if controls[model]
    }
    return _stack_models(blocks, "No arm has a control.")


def _plot_stages_of_model(table: pd.DataFrame, stages: pd.DataFrame, controls: Mapping[str, str]) -> alt.ConcatChart:
    rows = []
    for stage, (indicator, group) in STAGES.items():
        values = table[(table["metric"] == indicator) & (table["group"] == group) & (table["seed"] != "all")]
        values = values.set_index(["arm", "seed", "generation"])["estimate"]
        for arm, control in controls.items():
            if {arm, control} <= set(values.index.get_level_values("arm")):
                gap = (values[arm] - values[control]).dropna().rename("gap").reset_index()
                rows.append(gap.assign(arm=arm, stage=_STAGE_TITLES[stage]))
    gaps = pd.concat(rows) if rows else pd.DataFrame(columns=["seed", "generation", "gap", "arm", "stage"])
    ends = stages[(stages["analysis"] == "stage_end") & (stages["metric"] == "generation")]
    ends = ends.assign(stage=ends["indicator"].map(_STAGE_TITLES), gap=0.0)
    titles = list(_STAGE_TITLES.values())
    color = alt.Color("stage:N", title=None, sort=titles, scale=alt.Scale(domain=titles))
    x = _generation_axis(gaps)
    panels = []
    for arm in controls:
        base = alt.Chart(gaps[gaps["arm"] == arm]).encode(x=x, color=color)
        title = "arm minus control"
        lines = base.mark_line().encode(y=alt.Y("mean(gap):Q", title=title))
        points = base.mark_circle(size=22, opacity=0.7).encode(y=alt.Y("gap:Q", title=title))
        end = alt.Chart(ends[ends["arm"] == arm]).encode(color=color, y="gap:Q")
        bars = end.mark_rule(strokeWidth=4, opacity=0.35).encode(x="ci_low:Q", x2="ci_high:Q")
        diamonds = end.mark_point(shape="diamond", size=90, filled=True, opacity=1).encode(x="estimate:Q")
        panels.append((lines + points + bars + diamonds).properties(width=230, height=160, title=arm))
    return alt.concat(*panels, columns=3).resolve_scale(y="shared")


def plot_formats(table: pd.DataFrame, tasks: pd.DataFrame) -> alt.Chart:
    """Accuracy by prompt format and in multiple-choice tasks, one panel each; dashed: chance of the formats."""
    table = _pooled_rows(table[(table["metric"] == "accuracy") & table["group"].isin(FORMATS)])
    tasks = _pooled_rows(tasks[(tasks["metric"] == "accuracy") & (tasks["subject"] == "all")])
    arms = list(pd.concat([table["arm"], tasks["arm"]]).unique())
    return _stack_models(
        {model: _plot_formats_of_model(rows, task_rows, arms) for model, rows, task_rows in _by_model(table, tasks)}
    )


def _plot_formats_of_model(format_rows: pd.DataFrame, task_rows: pd.DataFrame, arms: list[str]) -> alt.ConcatChart:
    names = task_rows["task"] + ", " + task_rows["scoring"] + ", " + task_rows["num_fewshot"].astype(str) + "-shot"
    rows = pd.concat([format_rows, task_rows.assign(group=names)], ignore_index=True)
    panels = []
    for group in [*[name for name in FORMATS if (rows["group"] == name).any()], *names.unique()]:
        chart = _lines(rows[rows["group"] == group], "accuracy", arms, domain=[0, 1])
        chart += alt.Chart(rows.head(1)).mark_rule(strokeDash=[4, 3], color="#555").encode(y=alt.datum(0.25))
        panels.append(chart.properties(width=210, height=150, title=group.replace("_", " ")))
    return alt.concat(*panels, columns=3)


def plot_onsets(stages: pd.DataFrame) -> alt.Chart | alt.ConcatChart | alt.VConcatChart:
    """The onset of each indicator, one panel per arm, with the earliest on top.

    Hollow points: the change point is not significant after Holm's correction.
    """
    stages = stages[stages["analysis"] == "onset"]
    reached = stages[stages["metric"] == "generation"]
    blocks = {model: _plot_onsets_of_model(rows) for model, rows in _by_model(stages) if model in set(reached["model"])}
    return _stack_models(blocks, "No indicator departs from the control in any arm.")


def _plot_onsets_of_model(onsets: pd.DataFrame) -> alt.ConcatChart:
    rows, p_values = (onsets[onsets["metric"] == metric] for metric in ("generation", "p_corrected"))
    significant = p_values.set_index(["arm", "indicator"])["estimate"] < 1 - LEVEL
    significant = significant.reindex(rows.set_index(["arm", "indicator"]).index, fill_value=False).to_numpy()
    rows = rows.assign(significant=significant)
    rows = rows.assign(is_recall=rows["indicator"] == "recall", indicator=rows["indicator"].map(_indicator_title))
    color = alt.Color(
        "is_recall:N",
        legend=None,
        scale=alt.Scale(domain=[True, False], range=[figures.COLOURS[1], figures.COLOURS[0]]),
    )
    x = alt.X(
        "estimate:Q",
        title="onset (generation)",
        scale=alt.Scale(domain=[0, math.ceil(rows["estimate"].max())], padding=5),
        axis=alt.Axis(tickMinStep=1, format="d"),
    )
    fill = alt.condition(alt.datum.significant, color, alt.value("white"))
    panels = []
    for arm, arm_rows in rows.groupby("arm", sort=False):
        # Indicators with the same onset are in alphabetical order, with recall last: all above it precede it.
        arm_rows = arm_rows.sort_values(["estimate", "is_recall", "indicator"])
        y = alt.Y("indicator:N", title=None, sort=arm_rows["indicator"].tolist())
        base = alt.Chart(arm_rows).encode(y=y, color=color)
        bars = base.mark_rule(strokeWidth=2, clip=True).encode(x="ci_low:Q", x2="ci_high:Q")
        points = base.mark_point(size=50, opacity=1, filled=True, strokeWidth=1.5).encode(x=x, stroke=color, fill=fill)
        panels.append((bars + points).properties(width=230, height=alt.Step(16), title=arm))
    return alt.concat(*panels, columns=2)


def _indicator_title(indicator: str) -> str:
    return indicator.replace("divergence_hellinger", "divergence").replace("_", " ")
