"""Figures of editing: every one reads the summary, so what is drawn is what the table says."""

from __future__ import annotations

import altair as alt
import pandas as pd

from factlife import figures

_METRICS = {
    "efficacy": "edited prompt",
    "paraphrase": "held-out template",
    "neighbourhood": "who has the old value",
    "same_subject": "subject's other facts",
    "recall": "other people's facts",
}
_JUDGES = {
    "probability": "more probable than the other",
    "argmax": "every token the most probable",
    "generation": "written greedily",
}
_EDITOR = alt.Color("editor:N", title="editor")


def editors(table: pd.DataFrame) -> alt.Chart:
    """What each editor reaches and what it costs, one panel a model, before (tick) and after (point)."""
    rows = table[(table["criterion"] == "argmax") & table["metric"].isin(_METRICS)]
    last = rows.groupby(["model", "seed", "editor"])["n_edits"].transform("max")
    after = rows[(rows["n_edits"] == last) & (rows["phase"] == rows["schedule"].map({"single": "post"}).fillna("end"))]
    before = rows[rows["phase"] == "pre"]
    y = alt.Y("asked:N", title=None, sort=[*_METRICS.values()], axis=alt.Axis(labelLimit=220))
    base = alt.Chart().encode(y=y, yOffset=alt.YOffset("editor:N"), color=_EDITOR)
    x = alt.X("estimate:Q", title="every token right (tick: before the edit)", scale=alt.Scale(domain=[0, 1]))
    drawn = alt.layer(
        base.transform_filter("datum.phase != 'pre'")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("ci_low:Q"), x2="ci_high:Q"),
        base.transform_filter("datum.phase != 'pre'").mark_circle(size=50, opacity=1).encode(x=x),
        base.transform_filter("datum.phase == 'pre'")
        .mark_tick(thickness=1.5, size=9, color="#000")
        .encode(x=x, color=alt.value("#000")),
        data=pd.concat([after, before]).assign(asked=lambda frame: frame["metric"].map(_METRICS)),
    )
    return drawn.properties(width=330, height=alt.Step(11)).facet(facet=alt.Facet("model:N", title=None), columns=2)


def criteria(table: pd.DataFrame) -> alt.Chart:
    """The same edits by three judges, one panel a metric."""
    rows = table[table["metric"].isin(["efficacy", "paraphrase", "neighbourhood"]) & table["criterion"].isin(_JUDGES)]
    last = rows.groupby(["model", "seed", "editor"])["n_edits"].transform("max")
    rows = rows[(rows["n_edits"] == last) & (rows["phase"] != "pre")]
    rows = rows[rows["phase"] == rows["schedule"].map({"single": "post"}).fillna("end")]
    rows = rows.assign(asked=rows["metric"].map(_METRICS), judged=rows["criterion"].map(_JUDGES))
    base = alt.Chart(rows).encode(
        y=alt.Y("editor:N", title=None),
        yOffset=alt.YOffset("judged:N", sort=[*_JUDGES.values()]),
        color=alt.Color("judged:N", title="right when", sort=[*_JUDGES.values()]),
    )
    x = alt.X("estimate:Q", title="share right", scale=alt.Scale(domain=[0, 1]))
    drawn = alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2="ci_high:Q"),
        base.mark_circle(size=45, opacity=1).encode(x=x),
    )
    return drawn.properties(width=210, height=alt.Step(12)).facet(
        row=alt.Row("model:N", title=None), column=alt.Column("asked:N", title=None, sort=[*_METRICS.values()])
    )


_GROUPS = {
    "edits": "edits, in the edited model",
    "control": "other facts, in the edited model",
    "unedited": "old values, in the unedited model",
    "unedited_control": "other facts, in the unedited model",
}
_DATA = {
    "related": "on facts of other people",
    "unrelated": "on text without people",
    "edited_subjects": "on text about edited people",
}


def survival(table: pd.DataFrame) -> alt.Chart:
    """What is retained against steps of fine-tuning, a panel for each kind of data; all blocks trained."""
    rows = table[(table["metric"] == "retention") & (table["trained_layers"] == "all") & table["group"].isin(_GROUPS)]
    rows = rows.assign(
        followed=rows["group"].map(_GROUPS),
        read=rows["data"].map(_DATA),
        tuned=rows[["model", "editor", "finetuning"]].agg(", ".join, axis=1) if len(rows) else "",
    )
    base = alt.Chart(rows).encode(
        x=alt.X("step:Q", title="steps of fine-tuning", scale=alt.Scale(type="symlog"), axis=alt.Axis(values=[0, 1, 3, 10, 30, 100, 300, 1000])),
        detail="seed:N",
        y=figures.fraction_axis("still right, of those right at first"),
        color=alt.Color("followed:N", title="facts", sort=[*_GROUPS.values()]),
    )  # fmt: skip
    return (
        figures.line_with_band(base)
        .properties(width=210, height=170)
        .facet(row=alt.Row("tuned:N", title=None), column=alt.Column("read:N", title=None, sort=[*_DATA.values()]))
    )


_TOKENS = {"subject_last": "subject's last token", "last": "prompt's last token"}


def edit_sites(table: pd.DataFrame) -> alt.Chart:
    """The score of every place, with the choosers' picks, and what each pick loses; a row for each model."""
    rows = table[table["metric"] == "score"].assign(at=table["fact_token"].map(_TOKENS))
    colour = alt.Color("at:N", title="edited", scale=alt.Scale(domain=[*_TOKENS.values()]))
    y = alt.Y("estimate:Q", title="score", scale=alt.Scale(domain=[0, 1]))
    each = rows[rows["choose_by"] == "every_site"]
    layer = alt.X("layer:Q", title="block", axis=alt.Axis(tickMinStep=1, format="d"))
    lost = table[table["metric"] == "regret"].assign(at=table["fact_token"].map(_TOKENS))
    lost = lost.assign(where=lost["choose_by"] + lost["layer"].map(lambda at: "" if pd.isna(at) else f", block {at}"))
    parts = []
    for (model, seed), shown in each.groupby(["model", "seed"], sort=False):
        base = alt.Chart(shown).encode(x=layer, color=colour)
        curves = alt.layer(
            base.mark_area(opacity=0.15).encode(y=alt.Y("ci_low:Q", title="score"), y2="ci_high:Q"),
            base.mark_line(point=True).encode(y=y),
        ).properties(width=300, height=170, title=f"{model}, seed {seed}")
        own = alt.Chart(lost[(lost["model"] == model) & (lost["seed"] == seed)]).encode(
            y=alt.Y("where:N", title=None, sort=alt.EncodingSortField("estimate"), axis=alt.Axis(labelLimit=200)),
            color=alt.condition("datum.at == null", alt.value("#888"), colour),
        )
        x = alt.X("estimate:Q", title="score lost against the best place")
        regrets = alt.layer(
            own.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2="ci_high:Q"),
            own.mark_circle(size=60, opacity=1).encode(x=x),
        ).properties(width=230, height=170)
        parts.append(alt.hconcat(curves, regrets))
    return alt.vconcat(*parts)


def sequences(table: pd.DataFrame) -> alt.Chart:
    """What is reached right after each batch, and of all edits so far, against their number per key that a layer holds."""
    rows = table[
        (table["schedule"] == "sequential") & (table["criterion"] == "argmax") & table["metric"].isin(_METRICS)
    ]
    rows = rows[rows["phase"] != "pre"].assign(
        asked=lambda frame: frame["metric"].map(_METRICS),
        judged=lambda frame: frame["phase"].map({"post": "after its batch", "end": "all edits so far"}),
    )
    base = alt.Chart(rows).encode(
        x=alt.X("edits_per_key_dim:Q", title="edits per entry of a key (n / d_k)"),
        y=figures.fraction_axis("every token right"),
        color=_EDITOR,
    )
    drawn = alt.layer(
        base.transform_filter("datum.phase == 'end'").mark_area(opacity=0.12).encode(
            y=alt.Y("ci_low:Q", title="every token right"), y2="ci_high:Q"
        ),
        base.mark_line(point=alt.OverlayMarkDef(size=18)).encode(strokeDash=alt.StrokeDash("judged:N", title="asked")),
    )  # fmt: skip
    return drawn.properties(width=190, height=150).facet(
        row=alt.Row("model:N", title=None), column=alt.Column("asked:N", title=None, sort=[*_METRICS.values()])
    )
