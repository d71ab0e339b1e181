"""Figures of recall: every one reads the summary, so what is drawn is what the table says."""

from __future__ import annotations

import altair as alt
import pandas as pd

from factlife import figures

_KINDS = {
    "forward": "trained template",
    "paraphrase": "held-out template",
    "prefixed": "after a sentence about another",
    "question": "question",
    "reverse": "name from value",
    "multi_hop": "two hops",
    "unseen": "subjects never taught",
}
_EXPLORED = [
    "exact_match",
    "first_token_accuracy",
    "generation_match",
    "candidate_accuracy",
    "loss_nats",
    "rank",
    "confidence",
]
_X = alt.X(
    "stated:Q",
    title="times each fact was stated",
    scale=alt.Scale(type="symlog"),
    axis=alt.Axis(values=[0, 1, 3, 10, 30, 100, 300]),
)
_SIZE = {"width": 230, "height": 190}


def _add_exposures(table: pd.DataFrame) -> pd.DataFrame:
    """Rows pooled over frequencies, with how often taught facts had been stated then: unseen ones never are."""
    rows, at = table[table["exposures"] == "all"], ["model", "seed", "step"]
    taught = rows[(rows["probe_kind"] == "forward") & (rows["relation"] == "all")].drop_duplicates(at)
    rows = rows.join(taught.set_index(at)["mean_exposures"].rename("stated"), on=at)
    return rows.assign(stated=rows["mean_exposures"].where(rows["probe_kind"] != "unseen", rows["stated"]))


def _metric_rows(table: pd.DataFrame, metric: str, **where: object) -> pd.DataFrame:
    rows = _add_exposures(table[table["metric"] == metric])
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def plot_probe_kinds(table: pd.DataFrame) -> alt.Chart:
    """Recall against exposures for each way of asking, one panel a model."""
    rows = _metric_rows(table, "first_token_accuracy", relation="all")
    rows = rows[rows["probe_kind"].isin(_KINDS)].assign(asked=rows["probe_kind"].map(_KINDS))
    base = alt.Chart(rows).encode(
        x=_X,
        detail="seed:N",
        y=figures.fraction_axis("first token correct"),
        color=alt.Color("asked:N", title="asked by", sort=[*_KINDS.values()]),
    )
    return figures.line_with_band(base).properties(**_SIZE).facet(facet=alt.Facet("model:N", title=None), columns=2)


def plot_relations(table: pd.DataFrame) -> alt.Chart:
    """Whole values recalled against exposures for each relation, one panel a model."""
    rows = _metric_rows(table, "exact_match", probe_kind="forward")
    rows = rows[rows["relation"] != "all"]
    base = alt.Chart(rows).encode(
        x=_X,
        detail="seed:N",
        y=figures.fraction_axis("whole value correct"),
        color=alt.Color("relation:N", title="relation"),
    )
    return figures.line_with_band(base).properties(**_SIZE).facet(facet=alt.Facet("model:N", title=None), columns=2)


def plot_final_recall(table: pd.DataFrame) -> alt.Chart:
    """Recall of each relation at the last checkpoint by three ways of asking, with chance, one panel a model."""
    last = table[table["step"] == table.groupby(["model", "seed"])["step"].transform("max")]
    asked = {kind: _KINDS[kind] for kind in ("forward", "paraphrase", "question")}
    rows = last[(last["exposures"] == "all") & (last["relation"] != "all") & last["probe_kind"].isin(asked)]
    shares = rows[rows["metric"] == "exact_match"].assign(asked=rows["probe_kind"].map(asked))
    chance = rows[(rows["metric"] == "chance") & (rows["probe_kind"] == "forward")]
    y = alt.Y("relation:N", title=None)
    base = alt.Chart().encode(
        y=y,
        yOffset=alt.YOffset("asked:N", sort=[*asked.values()]),
        color=alt.Color("asked:N", title="asked by", sort=[*asked.values()]),
    )
    x = alt.X("estimate:Q", title="whole value correct (tick: chance)", scale=alt.Scale(domain=[0, 1]))
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2="ci_high:Q"),
        base.mark_circle(size=45, opacity=1).encode(x=x),
        alt.Chart().mark_tick(color="#000", thickness=1.5, size=22).encode(x="estimate:Q", y=y),
    ]
    layers = [
        layer.transform_filter(f"(datum.metric == 'chance') == {number == 2}".lower())
        for number, layer in enumerate(layers)
    ]
    both = pd.concat([shares, chance])
    drawn = alt.layer(*layers, data=both).properties(width=260, height=alt.Step(14))
    return drawn.facet(facet=alt.Facet("model:N", title=None), columns=2).resolve_scale(y="independent")


def plot_models(table: pd.DataFrame) -> alt.Chart:
    """Recall of held-out templates against exposures, models (tokenizers, worlds) side by side."""
    rows = _metric_rows(table, "exact_match", probe_kind="paraphrase", relation="all")
    base = alt.Chart(rows).encode(
        x=_X, detail="seed:N", y=figures.fraction_axis("whole value correct"), color=alt.Color("model:N", title="model")
    )
    return figures.line_with_band(base).properties(width=420, height=260)


def plot_confidence(table: pd.DataFrame) -> alt.Chart:
    """How sure models are of people they were taught and of people they never saw."""
    rows = pd.concat(
        [_metric_rows(table, "confidence", relation="all", probe_kind=kind) for kind in ("forward", "unseen")]
    )
    rows = rows.assign(asked=rows["probe_kind"].map(_KINDS))
    base = alt.Chart(rows).encode(
        x=_X,
        detail="seed:N",
        y=figures.fraction_axis("confidence"),
        color=alt.Color("asked:N", title="asked about", sort=[*_KINDS.values()]),
    )
    return figures.line_with_band(base).properties(**_SIZE).facet(facet=alt.Facet("model:N", title=None), columns=2)


def plot_training_loss(curves: pd.DataFrame) -> alt.Chart:
    """Training loss against exposures."""
    return (
        alt.Chart(curves)
        .mark_line()
        .encode(
            x=alt.X("exposures:Q", title="times each fact was stated"),
            y=alt.Y("loss:Q", title="training loss, nats per token", scale=alt.Scale(zero=False)),
            color=alt.Color("model:N", title="model"),
            detail="seed:N",
        )
        .properties(width=420, height=260)
    )


def plot_explorer(table: pd.DataFrame) -> alt.Chart:
    """The main metrics of every model, relation and kind of probe, chosen by menus."""
    rows = _add_exposures(table[table["metric"].isin(_EXPLORED)]).round(3)
    menus = {
        "metric": alt.binding_select(options=sorted(rows["metric"].unique()), name="metric "),
        "relation": alt.binding_select(options=["all", *sorted(set(rows["relation"]) - {"all"})], name="relation "),
        "probe_kind": alt.binding_select(options=sorted(rows["probe_kind"].unique()), name="probe "),
    }
    start = {"metric": "first_token_accuracy", "relation": "all", "probe_kind": "forward"}
    chosen = [alt.selection_point(fields=[key], bind=menu, value=start[key]) for key, menu in menus.items()]
    columns = ["model", "seed", "stated", "metric", "relation", "probe_kind", "n", "estimate", "ci_low", "ci_high"]
    base = alt.Chart(rows[columns]).encode(
        x=_X,
        detail="seed:N",
        y=alt.Y("estimate:Q", title="estimate"),
        color=alt.Color("model:N", title="model"),
        tooltip=["model", "n", "estimate", "ci_low", "ci_high"],
    )
    for selection in chosen:
        base = base.add_params(selection).transform_filter(selection)
    band = base.mark_errorbar().encode(y=alt.Y("ci_low:Q", title="estimate"), y2="ci_high:Q")
    return (band + base.mark_line(point={"size": 45})).properties(width=640, height=380)
