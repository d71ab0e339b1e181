"""Figures of recall, all drawn from the summary table."""

from __future__ import annotations

import altair as alt
import pandas as pd

from factlife import figures

_KINDS = {
    "forward": "trained template",
    "paraphrase": "held-out template",
    "prefixed": "after a sentence about another subject",
    "question": "question",
    "reverse": "reverse (name from value)",
    "multi_hop": "two hops",
    "unseen": "subjects never taught",
}
_EXPLORER_METRICS = [
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
    title="exposures per fact",
    scale=alt.Scale(type="symlog"),
    axis=alt.Axis(values=[0, 1, 3, 10, 30, 100, 300]),
)
_SIZE = {"width": 230, "height": 190}


def _add_exposures(table: pd.DataFrame) -> pd.DataFrame:
    """Rows pooled over frequencies, with how often taught facts had been stated then: unseen ones never are."""
    rows, keys = table[table["exposures"] == "all"], ["model", "seed", "step"]
    forward = rows[(rows["probe_kind"] == "forward") & (rows["relation"] == "all")].drop_duplicates(keys)
    rows = rows.join(forward.set_index(keys)["mean_exposures"].rename("stated"), on=keys)
    return rows.assign(stated=rows["mean_exposures"].where(rows["probe_kind"] != "unseen", rows["stated"]))


def _metric_rows(table: pd.DataFrame, metric: str, **filters: object) -> pd.DataFrame:
    rows = _add_exposures(table[table["metric"] == metric])
    for column, value in filters.items():
        rows = rows[rows[column] == value]
    return rows


def plot_probe_kinds(table: pd.DataFrame) -> alt.Chart:
    """Recall against exposures by kind of probe, one panel per model."""
    rows = _metric_rows(table, "first_token_accuracy", relation="all")
    rows = rows[rows["probe_kind"].isin(_KINDS)].assign(probe=rows["probe_kind"].map(_KINDS))
    base = alt.Chart(rows).encode(
        x=_X,
        detail="seed:N",
        y=figures.fraction_axis("first token correct"),
        color=alt.Color("probe:N", title="kind of probe", sort=[*_KINDS.values()]),
    )
    return figures.line_with_band(base).properties(**_SIZE).facet(facet=alt.Facet("model:N", title=None), columns=2)


def plot_relations(table: pd.DataFrame) -> alt.Chart:
    """Exact match against exposures by relation, one panel per model."""
    rows = _metric_rows(table, "exact_match", probe_kind="forward")
    rows = rows[rows["relation"] != "all"]
    base = alt.Chart(rows).encode(
        x=_X,
        detail="seed:N",
        y=figures.fraction_axis("exact match"),
        color=alt.Color("relation:N", title="relation"),
    )
    return figures.line_with_band(base).properties(**_SIZE).facet(facet=alt.Facet("model:N", title=None), columns=2)


def plot_final_recall(table: pd.DataFrame) -> alt.Chart:
    """Exact match at the last checkpoint by relation and kind of probe, with chance, one panel per model."""
    last = table[table["step"] == table.groupby(["model", "seed"])["step"].transform("max")]
    labels = {kind: _KINDS[kind] for kind in ("forward", "paraphrase", "question")}
    rows = last[(last["exposures"] == "all") & (last["relation"] != "all") & last["probe_kind"].isin(labels)]
    exact_match = rows[rows["metric"] == "exact_match"].assign(probe=rows["probe_kind"].map(labels))
    chance = rows[(rows["metric"] == "chance") & (rows["probe_kind"] == "forward")]
    y = alt.Y("relation:N", title=None)
    base = alt.Chart().encode(
        y=y,
        yOffset=alt.YOffset("probe:N", sort=[*labels.values()]),
        color=alt.Color("probe:N", title="kind of probe", sort=[*labels.values()]),
    )
    x = alt.X("estimate:Q", title="exact match (tick: chance)", scale=alt.Scale(domain=[0, 1]))
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=alt.X("ci_low:Q"), x2="ci_high:Q"),
        base.mark_circle(size=45, opacity=1).encode(x=x),
        alt.Chart().mark_tick(color="#000", thickness=1.5, size=22).encode(x="estimate:Q", y=y),
    ]
    layers = [
        layer.transform_filter(f"(datum.metric == 'chance') == {i == 2}".lower()) for i, layer in enumerate(layers)
    ]
    data = pd.concat([exact_match, chance])
    panel = alt.layer(*layers, data=data).properties(width=260, height=alt.Step(14))
    return panel.facet(facet=alt.Facet("model:N", title=None), columns=2).resolve_scale(y="independent")


def plot_models(table: pd.DataFrame) -> alt.Chart:
    """Exact match on held-out templates against exposures, by model."""
    rows = _metric_rows(table, "exact_match", probe_kind="paraphrase", relation="all")
    base = alt.Chart(rows).encode(
        x=_X, detail="seed:N", y=figures.fraction_axis("exact match"), color=alt.Color("model:N", title="model")
    )
    return figures.line_with_band(base).properties(width=420, height=260)


def plot_confidence(table: pd.DataFrame) -> alt.Chart:
    """How sure models are of people they were taught and of people they never saw."""
    rows = pd.concat(
        [_metric_rows(table, "confidence", relation="all", probe_kind=kind) for kind in ("forward", "unseen")]
    )
    rows = rows.assign(probe=rows["probe_kind"].map(_KINDS))
    base = alt.Chart(rows).encode(
        x=_X,
        detail="seed:N",
        y=figures.fraction_axis("confidence"),
        color=alt.Color("probe:N", title="probes about", sort=[*_KINDS.values()]),
    )
    return figures.line_with_band(base).properties(**_SIZE).facet(facet=alt.Facet("model:N", title=None), columns=2)


def plot_training_loss(curves: pd.DataFrame) -> alt.Chart:
    """Training loss against exposures."""
    return (
        alt.Chart(curves)
        .mark_line()
        .encode(
            x=alt.X("exposures:Q", title="exposures per fact"),
            y=alt.Y("loss:Q", title="training loss, nats per token", scale=alt.Scale(zero=False)),
            color=alt.Color("model:N", title="model"),
            detail="seed:N",
        )
        .properties(width=420, height=260)
    )


def plot_explorer(table: pd.DataFrame) -> alt.Chart:
    """An interactive chart: menus select metric, relation and kind of probe."""
    rows = _add_exposures(table[table["metric"].isin(_EXPLORER_METRICS)]).round(3)
    menus = {
        "metric": alt.binding_select(options=sorted(rows["metric"].unique()), name="metric "),
        "relation": alt.binding_select(options=["all", *sorted(set(rows["relation"]) - {"all"})], name="relation "),
        "probe_kind": alt.binding_select(options=sorted(rows["probe_kind"].unique()), name="probe "),
    }
    defaults = {"metric": "first_token_accuracy", "relation": "all", "probe_kind": "forward"}
    selections = [alt.selection_point(fields=[key], bind=menu, value=defaults[key]) for key, menu in menus.items()]
    columns = ["model", "seed", "stated", "metric", "relation", "probe_kind", "n", "estimate", "ci_low", "ci_high"]
    base = alt.Chart(rows[columns]).encode(
        x=_X,
        detail="seed:N",
        y=alt.Y("estimate:Q", title="estimate"),
        color=alt.Color("model:N", title="model"),
        tooltip=["model", "n", "estimate", "ci_low", "ci_high"],
    )
    for selection in selections:
        base = base.add_params(selection).transform_filter(selection)
    band = base.mark_errorbar().encode(y=alt.Y("ci_low:Q", title="estimate"), y2="ci_high:Q")
    return (band + base.mark_line(point={"size": 45})).properties(width=640, height=380)
