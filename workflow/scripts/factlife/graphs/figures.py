"""Figures of attribution graphs, drawn from their tables."""

from __future__ import annotations

import altair as alt
import pandas as pd

_PANELS = {
    "replacement": "transcoders, attention frozen",
    "frozen": "real MLPs, attention frozen",
    "unfrozen": "nothing frozen",
}
_MAX_POINTS = 400


def plot_interventions(table: pd.DataFrame, summary: pd.DataFrame) -> alt.TopLevelMixin:
    """Measured against predicted change of the answer's logit when a feature is ablated, one panel per setting.

    Args:
        table: one row per intervention.
        summary: ``graphs.csv``, for the correlations in the panels' titles.
    """
    if table.empty:
        return alt.Chart(pd.DataFrame({"no graphs": []})).mark_point()
    ablations = table[(table["steering_factor"] == 0) & (table["attribution_target"] == "answer")]
    sample = ablations.sample(min(_MAX_POINTS, len(ablations)), random_state=0)
    pearson = summary[(summary["metric"] == "pearson") & (summary["attribution_target"] == "answer")]
    pearson = pearson[
        (pearson["predictor"] == "total") & (pearson["feature_set"] == "all") & (pearson["steering_factor"] == 0)
    ]
    correlations = pearson.groupby("setting")["estimate"].mean()
    rows = []
    for setting, description in _PANELS.items():
        panel = f"{description} (r = {correlations.get(setting, float('nan')):.2f})"
        if setting != "replacement":
            control = sample[f"random_{setting}"]
            rows.append(sample.assign(panel=panel, measured=control, ablated="random direction"))
        rows.append(sample.assign(panel=panel, measured=sample[setting], ablated="feature"))
    points = pd.concat(rows, ignore_index=True)[["predicted", "measured", "panel", "ablated", "fact_id"]]
    panels = list(dict.fromkeys(points["panel"]))
    limit = float(points[["predicted", "measured"]].abs().to_numpy().max()) if len(points) else 1.0
    scale = alt.Scale(domain=[-limit, limit], nice=False)
    base = alt.Chart().encode(
        x=alt.X("predicted:Q", title="change predicted by the graph", scale=scale),
        y=alt.Y("measured:Q", title="measured change", scale=scale),
    )
    line = (
        alt.Chart(pd.DataFrame({"x": [-limit, limit]}))
        .mark_line(color="#bbb", strokeWidth=1)
        .encode(x=alt.X("x:Q", scale=scale), y=alt.Y("x:Q", scale=scale))
    )
    dots = base.mark_circle(size=22, opacity=0.55).encode(
        color=alt.Color("ablated:N", title="ablated", sort=["feature"], scale=alt.Scale(range=["#0072b2", "#d55e00"]))
    )
    return alt.hconcat(
        *(
            alt.layer(line, dots.transform_filter(alt.datum.panel == panel), data=points).properties(
                width=250, height=250, title=panel
            )
            for panel in panels
        )
    )
