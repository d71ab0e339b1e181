"""Figures of circuits, drawn from ``circuits.csv``."""

from __future__ import annotations

import altair as alt
import pandas as pd

_CONTROLS = {
    "random_best": "best random circuit, same edge kinds",
    "random_connected_best": "best random connected circuit",
    "random_weights": "discovered in random weights",
    "shuffled_answers": "discovered on shuffled answers",
    "known": "known circuit",
}


def plot_faithfulness_curves(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Faithfulness on validation subjects against the fraction of edges, with controls, one panel per relation."""
    validation = table[table["evaluated_on"].fillna("") == "validation"]
    circuit = validation[validation["control"].fillna("") == ""]
    curve = circuit[circuit["metric"] == "faithfulness"].assign(series="circuit")
    best = circuit[circuit["metric"].isin(_CONTROLS)]
    control = validation[(validation["metric"] == "faithfulness") & validation["control"].isin(_CONTROLS)]
    points = pd.concat(
        [best.assign(series=best["metric"].map(_CONTROLS)), control.assign(series=control["control"].map(_CONTROLS))]
    )
    x = alt.X(
        "fraction:Q",
        title="fraction of edges",
        scale=alt.Scale(type="log", domain=[0.001, 1]),
        axis=alt.Axis(format="~%", values=[0.001, 0.01, 0.1, 1], grid=False),
    )
    colour = alt.Color("series:N", title=None, sort=["circuit", *_CONTROLS.values()])
    y = alt.Y("estimate:Q", title="faithfulness", scale=alt.Scale(domain=[0, 1]))
    circuit_chart = alt.Chart().transform_filter("datum.series == 'circuit'")
    layers = [
        circuit_chart.mark_area(opacity=0.18).encode(x=x, y=alt.Y("ci_low:Q"), y2="ci_high:Q", color=colour),
        circuit_chart.mark_line(point={"size": 30}).encode(x=x, y=y, color=colour),
        alt.Chart()
        .transform_filter("datum.series != 'circuit'")
        .mark_point(size=55, filled=True, opacity=0.9)
        .encode(x=x, y=y, color=colour, shape=alt.Shape("series:N", legend=None)),
    ]
    rows = pd.concat([curve, points])
    rows = rows.assign(panel=rows["model"] + ": " + rows["relation"] + " by " + rows["method"])
    chart = alt.layer(*layers, data=rows).properties(width=260, height=190)
    return chart.facet(facet=alt.Facet("panel:N", title=None), columns=2)


def plot_training_curves(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Entropy of edge scores and overlap with the final circuit, against the training step."""
    rows = table[table["step"].notna()]
    rows = rows.assign(circuit=rows["model"] + ": " + rows["relation"])
    panels = []
    for metric, title in (
        ("edge_entropy", "entropy of edge scores (nats)"),
        ("jaccard_with_final", "overlap with the final circuit"),
    ):
        base = alt.Chart(rows[rows["metric"] == metric]).encode(
            x=alt.X("step:Q", title="step", scale=alt.Scale(type="symlog", constant=30)),
            y=alt.Y("estimate:Q", title=title, scale=alt.Scale(zero=metric != "edge_entropy")),
            color=alt.Color("circuit:N", title="circuit of"),
            detail="seed:N",
        )
        panels.append(base.mark_line(point={"size": 30}).properties(width=260, height=190))
    return alt.hconcat(*panels)


def plot_relation_transfer(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Faithfulness of each relation's circuit on all relations, and the overlap of two circuits."""
    is_relation_circuit = table["control"].isna() & table["n_edges"].isna() & table["step"].isna()
    faithfulness = table[is_relation_circuit & (table["metric"] == "faithfulness")]
    own_relation = faithfulness[faithfulness["evaluated_on"] == "validation"].assign(
        evaluated_on=lambda rows: rows["relation"]
    )
    overlap = pd.concat([table[table["metric"] == "jaccard"], own_relation.assign(estimate=1.0)])
    panels = []
    for rows, x_title, title in (
        (pd.concat([own_relation, faithfulness]), "evaluated on", "faithfulness on validation subjects"),
        (overlap, "other circuit", "overlap of edges (Jaccard)"),
    ):
        rows = rows[rows["evaluated_on"].isin(set(own_relation["relation"]))]
        rows = rows.groupby(["model", "method", "relation", "evaluated_on"], as_index=False)["estimate"].mean()
        rows["panel"] = rows["model"] + " by " + rows["method"]
        base = alt.Chart().encode(
            x=alt.X("evaluated_on:N", title=x_title, axis=alt.Axis(labelAngle=-30)),
            y=alt.Y("relation:N", title="circuit of", axis=alt.Axis(minExtent=85)),
        )
        shade = alt.Color("estimate:Q", scale=alt.Scale(scheme="blues", domain=[0, 1], clamp=True), legend=None)
        text = base.mark_text(fontSize=11).encode(
            text=alt.Text("estimate:Q", format=".2f"),
            color=alt.condition("datum.estimate > 0.6", alt.value("white"), alt.value("#333")),
        )
        chart = alt.layer(base.mark_rect().encode(color=shade), text, data=rows)
        chart = chart.properties(width=alt.Step(58), height=alt.Step(34))
        panels.append(chart.facet(facet=alt.Facet("panel:N", title=None), columns=1, title=title))
    return alt.hconcat(*panels)


def plot_hypothesis_effects(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Effect and control effect of each ablation, with the smallest effect of interest and the verdict."""
    rows = table[table["metric"].isin(["effect", "control_effect"])]
    rows = rows.assign(
        corrupted=rows["metric"].map({"effect": "different answer", "control_effect": "same answer (control)"}),
        label=rows["model"] + ": " + rows["hypothesis"] + " (" + rows["component"] + ")",
    )
    y = alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=420, minExtent=260))
    colour = alt.Color(
        "corrupted:N",
        title="corrupted run: subject with",
        sort=["different answer", "same answer (control)"],
        legend=alt.Legend(orient="top", titleOrient="top"),
    )
    x = alt.X("estimate:Q", title="fraction of the logit difference lost", axis=alt.Axis(format="%"))
    base = alt.Chart(rows)
    effects = base.transform_filter("datum.metric == 'effect'")
    # Flip the sign for hypotheses that ablation raises the logit difference.
    limit = "datum.direction == 'lowers' ? datum.smallest_effect : -datum.smallest_effect"
    return (
        base.mark_rule(strokeWidth=2).encode(y=y, x=alt.X("ci_low:Q"), x2="ci_high:Q", color=colour)
        + base.mark_circle(size=45, opacity=1).encode(y=y, x=x, color=colour)
        + effects.transform_calculate(limit=limit)
        .mark_tick(color="#000", thickness=1.5, size=14)
        .encode(y=y, x="limit:Q")
        + effects.mark_text(align="left", fontSize=11).encode(y=y, x=alt.value(430), text="verdict:N")
    ).properties(width=420, height=alt.Step(20))


_MAX_HEADS = 24


def plot_head_attributions(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Direct logit attribution of each head by the tokens that it reads, with its role, one panel per relation."""
    table = table[table["role"] != "none"].assign(circuit=table["model"] + ": " + table["relation"])
    sources = {"dla_from_subject": "the subject", "dla_from_relation": "later tokens"}
    wide = table.pivot_table(
        index=["circuit", "head", "layer", "role"], columns="metric", values="estimate", aggfunc="mean"
    ).reindex(columns=[*sources, "dla_logit_diff"])
    size = wide[list(sources)].abs().sum(axis=1)
    wide = (
        wide[size.groupby("circuit").rank(ascending=False) <= _MAX_HEADS].reset_index().sort_values(["layer", "head"])
    )
    panels = []
    for circuit, rows in wide.groupby("circuit", sort=False):
        y = alt.Y("head:N", title=None, sort=None)
        long = rows.melt(["head", "role"], list(sources), "source", "effect").replace({"source": sources})
        bars = (
            alt.Chart(long)
            .mark_bar(height=9)
            .encode(
                y=y,
                x=alt.X("effect:Q", title="direct effect on the answer's logit"),
                color=alt.Color(
                    "source:N", title="read from", sort=list(sources.values()), legend=alt.Legend(orient="top")
                ),
            )
        )
        base = alt.Chart(rows).encode(y=y)
        ticks = base.mark_tick(color="#000", thickness=1.5, size=13).encode(x="dla_logit_diff:Q")
        labels = base.mark_text(align="left", fontSize=11).encode(x=alt.value(330), text="role:N")
        panels.append((bars + ticks + labels).properties(width=320, height=alt.Step(15), title=circuit))
    return alt.concat(*panels, columns=2)
