"""Figures of circuits, drawn from ``circuits.csv``."""

from __future__ import annotations

import altair as alt
import pandas as pd

_CONTROLS = {
    "random_best": "best random circuit, same kinds of edges",
    "random_connected_best": "best random circuit of paths",
    "random_weights": "found in random weights",
    "shuffled_labels": "found with others' answers",
}


def faithfulness(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Faithfulness on held-out subjects against the share of edges, with what controls reach, one panel a relation."""
    held = table[table["on"].fillna("") == "held_out"]
    main = held[held["control"].fillna("") == ""]
    curve = main[main["metric"] == "faithfulness"].assign(what="circuit")
    best = main[main["metric"].isin(_CONTROLS)]
    null = held[(held["metric"] == "faithfulness") & held["control"].isin(_CONTROLS)]
    points = pd.concat(
        [best.assign(what=best["metric"].map(_CONTROLS)), null.assign(what=null["control"].map(_CONTROLS))]
    )
    x = alt.X(
        "budget:Q",
        title="share of edges",
        scale=alt.Scale(type="log", domain=[0.001, 1]),
        axis=alt.Axis(format="~%", values=[0.001, 0.01, 0.1, 1], grid=False),
    )
    colour = alt.Color("what:N", title=None, sort=["circuit", *_CONTROLS.values()])
    y = alt.Y("estimate:Q", title="faithfulness", scale=alt.Scale(domain=[0, 1]))
    of_circuit = alt.Chart().transform_filter("datum.what == 'circuit'")
    layers = [
        of_circuit.mark_area(opacity=0.18).encode(x=x, y=alt.Y("ci_low:Q"), y2="ci_high:Q", color=colour),
        of_circuit.mark_line(point={"size": 30}).encode(x=x, y=y, color=colour),
        alt.Chart()
        .transform_filter("datum.what != 'circuit'")
        .mark_point(size=55, filled=True, opacity=0.9)
        .encode(x=x, y=y, color=colour, shape=alt.Shape("what:N", legend=None)),
    ]
    rows = pd.concat([curve, points])
    rows = rows.assign(panel=rows["model"] + ": " + rows["relation"] + " by " + rows["method"])
    drawn = alt.layer(*layers, data=rows).properties(width=260, height=190)
    return drawn.facet(facet=alt.Facet("panel:N", title=None), columns=2)


def training(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Entropy of edges' scores and overlap with the final circuit, against the step of training."""
    rows = table[table["step"].notna()]
    rows = rows.assign(circuit=rows["model"] + ": " + rows["relation"])
    panels = []
    for metric, title in (
        ("edge_entropy", "entropy of edges' scores, nats"),
        ("overlap_with_final", "overlap with the final circuit"),
    ):
        base = alt.Chart(rows[rows["metric"] == metric]).encode(
            x=alt.X("step:Q", title="step", scale=alt.Scale(type="symlog", constant=30)),
            y=alt.Y("estimate:Q", title=title, scale=alt.Scale(zero=metric != "edge_entropy")),
            color=alt.Color("circuit:N", title="circuit of"),
            detail="seed:N",
        )
        panels.append(base.mark_line(point={"size": 30}).properties(width=260, height=190))
    return alt.hconcat(*panels)
