"""Figures of editing, plotted from the summary tables."""

from __future__ import annotations

import altair as alt
import pandas as pd

from factlife import figures

_METRICS = {
    "efficacy": "efficacy",
    "paraphrase": "paraphrase",
    "neighbourhood": "neighbourhood",
    "same_subject": "subject's other facts",
    "recall": "other subjects' facts",
}
_CRITERIA = {
    "probability": "higher probability than the alternative",
    "argmax": "every token is the argmax",
    "generation": "greedy generation",
}
_EDITOR = alt.Color("editor:N", title="editor")


def plot_editors(table: pd.DataFrame) -> alt.Chart:
    """Efficacy of each editor and damage to other facts, a panel per model, before (tick) and after editing (point)."""
    rows = table[(table["criterion"] == "argmax") & table["metric"].isin(_METRICS)]
    post_edit = _final_rows(rows)
    pre_edit = rows[rows["phase"] == "pre"]
    y = alt.Y("metric_label:N", title=None, sort=[*_METRICS.values()], axis=alt.Axis(labelLimit=220))
    base = alt.Chart().encode(y=y, yOffset=alt.YOffset("editor:N"), color=_EDITOR)
    x = alt.X("estimate:Q", title="accuracy, argmax (tick: before editing)", scale=alt.Scale(domain=[0, 1]))
    chart = alt.layer(
        base.transform_filter("datum.phase != 'pre'")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("ci_low:Q"), x2="ci_high:Q"),
        base.transform_filter("datum.phase != 'pre'").mark_circle(size=50, opacity=1).encode(x=x),
        base.transform_filter("datum.phase == 'pre'")
        .mark_tick(thickness=1.5, size=9, color="#000")
        .encode(x=x, color=alt.value("#000")),
        data=pd.concat([post_edit, pre_edit]).assign(metric_label=lambda frame: frame["metric"].map(_METRICS)),
    )
    return chart.properties(width=330, height=alt.Step(11)).facet(facet=alt.Facet("model:N", title=None), columns=2)


def _final_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each editor once all its edits are made."""
    n_edits = rows.groupby(["model", "seed", "editor"])["n_edits"].transform("max")
    phase = rows["schedule"].map({"single": "post"}).fillna("end")
    return rows[(rows["n_edits"] == n_edits) & (rows["phase"] == phase)]


def plot_criteria(table: pd.DataFrame) -> alt.Chart:
    """The same edits under three success criteria, one panel per metric."""
    rows = table[table["metric"].isin(["efficacy", "paraphrase", "neighbourhood"]) & table["criterion"].isin(_CRITERIA)]
    rows = _final_rows(rows)
    rows = rows.assign(metric_label=rows["metric"].map(_METRICS), criterion_label=rows["criterion"].map(_CRITERIA))
    base = alt.Chart(rows).encode(
        y=alt.Y("editor:N", title=None),
        yOffset=alt.YOffset("criterion_label:N", sort=[*_CRITERIA.values()]),
        color=alt.Color("criterion_label:N", title="criterion", sort=[*_CRITERIA.values()]),
    )
    x = alt.X("estimate:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]))
    chart = alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2="ci_high:Q"),
        base.mark_circle(size=45, opacity=1).encode(x=x),
    )
    return chart.properties(width=210, height=alt.Step(12)).facet(
        row=alt.Row("model:N", title=None),
        column=alt.Column("metric_label:N", title=None, sort=[*_METRICS.values()]),
    )


_GROUPS = {
    "edits": "edits, edited model",
    "control": "other facts, edited model",
    "unedited": "old values, unedited model",
    "unedited_control": "other facts, unedited model",
}
_DATA = {
    "related": "facts of other people",
    "unrelated": "text without people",
    "edited_subjects": "text about edited people",
}


def plot_survival(table: pd.DataFrame) -> alt.Chart:
    """Retention against fine-tuning steps, a panel per kind of data; all blocks are trained."""
    rows = table[(table["metric"] == "retention") & (table["trained_layers"] == "all") & table["group"].isin(_GROUPS)]
    rows = rows.assign(
        group_label=rows["group"].map(_GROUPS),
        data_label=rows["data"].map(_DATA),
        run=rows[["model", "editor", "finetuning"]].agg(", ".join, axis=1) if len(rows) else "",
    )
    base = alt.Chart(rows).encode(
        x=alt.X("step:Q", title="fine-tuning steps", scale=alt.Scale(type="symlog"), axis=alt.Axis(values=[0, 1, 3, 10, 30, 100, 300, 1000])),
        detail="seed:N",
        y=figures.fraction_axis("retention"),
        color=alt.Color("group_label:N", title="facts", sort=[*_GROUPS.values()]),
    )  # fmt: skip
    return (
        figures.line_with_band(base)
        .properties(width=210, height=170)
        .facet(
            row=alt.Row("run:N", title=None),
            column=alt.Column("data_label:N", title=None, sort=[*_DATA.values()]),
        )
    )


_TOKENS = {"subject_last": "subject's last token", "last": "prompt's last token"}


def plot_edit_sites(table: pd.DataFrame) -> alt.Chart:
    """The score of every site, and the regret of each criterion's choice; a row per model."""
    rows = table[table["metric"] == "score"].assign(token_label=table["fact_token"].map(_TOKENS))
    colour = alt.Color("token_label:N", title="edited token", scale=alt.Scale(domain=[*_TOKENS.values()]))
    y = alt.Y("estimate:Q", title="score", scale=alt.Scale(domain=[0, 1]))
    sites = rows[rows["choose_by"] == "every_site"]
    x_layer = alt.X("layer:Q", title="block", axis=alt.Axis(tickMinStep=1, format="d"))
    regret = table[table["metric"] == "regret"].assign(token_label=table["fact_token"].map(_TOKENS))
    block_label = regret["layer"].map(lambda layer: "" if pd.isna(layer) else f", block {layer}")
    regret = regret.assign(choice=regret["choose_by"] + block_label)
    parts = []
    for (model, seed), model_sites in sites.groupby(["model", "seed"], sort=False):
        base = alt.Chart(model_sites).encode(x=x_layer, color=colour)
        curves = alt.layer(
            base.mark_area(opacity=0.15).encode(y=alt.Y("ci_low:Q", title="score"), y2="ci_high:Q"),
            base.mark_line(point=True).encode(y=y),
        ).properties(width=300, height=170, title=f"{model}, seed {seed}")
        choices = alt.Chart(regret[(regret["model"] == model) & (regret["seed"] == seed)]).encode(
            y=alt.Y("choice:N", title=None, sort=alt.EncodingSortField("estimate"), axis=alt.Axis(labelLimit=200)),
            color=alt.condition("datum.token_label == null", alt.value("#888"), colour),
        )
        x = alt.X("estimate:Q", title="regret: best site's score minus own")
        regrets = alt.layer(
            choices.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2="ci_high:Q"),
            choices.mark_circle(size=60, opacity=1).encode(x=x),
        ).properties(width=230, height=170)
        parts.append(alt.hconcat(curves, regrets))
    return alt.vconcat(*parts)


def plot_sequences(table: pd.DataFrame) -> alt.Chart:
    """Accuracy right after each batch, and of all edits so far, against the number of edits per key dimension."""
    rows = table[
        (table["schedule"] == "sequential") & (table["criterion"] == "argmax") & table["metric"].isin(_METRICS)
    ]
    rows = rows[rows["phase"] != "pre"].assign(
        metric_label=lambda frame: frame["metric"].map(_METRICS),
        phase_label=lambda frame: frame["phase"].map({"post": "after its batch", "end": "all edits so far"}),
    )
    base = alt.Chart(rows).encode(
        x=alt.X("edits_per_key_dim:Q", title="edits per key dimension (n / d_k)"),
        y=figures.fraction_axis("accuracy, argmax"),
        color=_EDITOR,
    )
    chart = alt.layer(
        base.transform_filter("datum.phase == 'end'").mark_area(opacity=0.12).encode(
            y=alt.Y("ci_low:Q", title="accuracy, argmax"), y2="ci_high:Q"
        ),
        base.mark_line(point=alt.OverlayMarkDef(size=18)).encode(
            strokeDash=alt.StrokeDash("phase_label:N", title="evaluated")
        ),
    )  # fmt: skip
    return chart.properties(width=190, height=150).facet(
        row=alt.Row("model:N", title=None),
        column=alt.Column("metric_label:N", title=None, sort=[*_METRICS.values()]),
    )
