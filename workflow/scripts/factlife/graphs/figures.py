"""Figures of attribution graphs: every one reads a table."""

from __future__ import annotations

import altair as alt
import pandas as pd

_HELD = {
    "replacement": "transcoders, attention held",
    "frozen": "real MLPs, attention held",
    "unfrozen": "nothing held",
}
_POINTS = 400


def plot_interventions(table: pd.DataFrame, summary: pd.DataFrame) -> alt.TopLevelMixin:
    """Measured against predicted change of the answer's logit when a feature is ablated, less held from left to right.

    Args:
        table: a row per intervention.
        summary: ``graphs.csv``, whose correlations the panels say.
    """
    if table.empty:
        return alt.Chart(pd.DataFrame({"no graphs": []})).mark_point()
    asked = table[(table["steering_factor"] == 0) & (table["attribution_target"] == "answer")]
    drawn = asked.sample(min(_POINTS, len(asked)), random_state=0)
    told = summary[(summary["metric"] == "pearson") & (summary["attribution_target"] == "answer")]
    told = told[(told["predictor"] == "total") & (told["feature_set"] == "all") & (told["steering_factor"] == 0)]
    said = told.groupby("setting")["estimate"].mean()
    rows = []
    for setting, words in _HELD.items():
        panel = f"{words} (r = {said.get(setting, float('nan')):.2f})"
        if setting != "replacement":
            rows.append(drawn.assign(panel=panel, measured=drawn[f"random_{setting}"], what="random direction"))
        rows.append(drawn.assign(panel=panel, measured=drawn[setting], what="feature"))
    points = pd.concat(rows, ignore_index=True)[["predicted", "measured", "panel", "what", "fact_id"]]
    panels = list(dict.fromkeys(points["panel"]))
    end = float(points[["predicted", "measured"]].abs().to_numpy().max()) if len(points) else 1.0
    scale = alt.Scale(domain=[-end, end], nice=False)
    base = alt.Chart().encode(
        x=alt.X("predicted:Q", title="predicted by the graph", scale=scale),
        y=alt.Y("measured:Q", title="measured", scale=scale),
    )
    line = (
        alt.Chart(pd.DataFrame({"x": [-end, end]}))
        .mark_line(color="#bbb", strokeWidth=1)
        .encode(x=alt.X("x:Q", scale=scale), y=alt.Y("x:Q", scale=scale))
    )
    dots = base.mark_circle(size=22, opacity=0.55).encode(
        color=alt.Color("what:N", title="ablated", sort=["feature"], scale=alt.Scale(range=["#0072b2", "#d55e00"]))
    )
    return alt.hconcat(
        *(
            alt.layer(line, dots.transform_filter(alt.datum.panel == panel), data=points).properties(
                width=250, height=250, title=panel
            )
            for panel in panels
        )
    )
