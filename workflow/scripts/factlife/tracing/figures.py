"""Figures of causal tracing, drawn from the summary table."""

from __future__ import annotations

import altair as alt
import pandas as pd

from factlife import figures

ROLES = {
    "subject_first": "subject, first",
    "subject_middle": "middle",
    "subject_last": "subject, last",
    "relation": "relation",
    "last": "last token",
}
_COMPONENTS = {
    "residual": "residual stream",
    "attention": "attention",
    "mlp": "MLP",
    "residual_attention_frozen": "residual, later|attention frozen",
    "residual_mlp_frozen": "residual, later|MLPs frozen",
}
_CORRUPTIONS = {
    "replacement": "another subject",
    "noise": "noise",
    "same_answer": "same answer (control)",
}


def _restored_fractions(table: pd.DataFrame) -> pd.DataFrame:
    """Effects as fractions of the total effect of the same corruption, averaged over the seeds of a model."""
    scales = {"": "of probability", "_logit_diff": "of logit difference"}
    parts = []
    for suffix, scale in scales.items():
        effects = table[table["metric"] == f"indirect_effect{suffix}"].assign(scale=scale)
        totals = table[table["metric"] == f"total_effect{suffix}"].set_index(["model", "seed", "corruption"])[
            "estimate"
        ]
        # The control has almost no total effect of its own, so it is scaled by the total effect of `replacement`.
        controlled = effects["corruption"].replace({"same_answer": "replacement"})
        keys = pd.MultiIndex.from_arrays([effects["model"], effects["seed"], controlled])
        total = totals.reindex(keys).to_numpy()
        parts.append(effects.assign(**{key: effects[key] / total for key in ("estimate", "ci_low", "ci_high")}))
    fractions = pd.concat(parts)
    fractions = fractions.groupby(
        ["model", "corruption", "component", "window", "token_role", "layer", "scale"], sort=False, as_index=False
    )[["estimate", "ci_low", "ci_high"]].mean()
    return fractions.assign(
        role=fractions["token_role"].map(ROLES),
        restored=fractions["component"].map(_COMPONENTS),
        corrupted=fractions["corruption"].map(_CORRUPTIONS),
    )


def plot_effect_heat_map(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Fraction of the total effect restored at each token role and layer; columns are components, rows are models."""
    rows = _restored_fractions(table)
    corruption = "replacement" if "replacement" in set(rows["corruption"]) else "noise"
    rows = rows[(rows["corruption"] == corruption) & (rows["window"] == 1) & rows["scale"].str.endswith("difference")]
    panels = []
    for model, model_rows in rows.groupby("model", sort=False):
        n_layers = int(model_rows["layer"].max()) + 1
        base = alt.Chart(model_rows).encode(
            x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("role:N", title=None, sort=[*ROLES.values()], axis=alt.Axis(minExtent=80)),
        )
        colour = alt.Color(
            "estimate:Q",
            title="fraction restored",
            scale=alt.Scale(scheme="blueorange", domain=[-1, 1], domainMid=0, clamp=True),
            legend=alt.Legend(format="%"),
        )
        layers = [base.mark_rect().encode(color=colour)]
        if n_layers <= 12:
            dark = "abs(datum.estimate) > 0.6"
            layers.append(
                base.mark_text(fontSize=10).encode(
                    text=alt.Text("estimate:Q", format=".0%"),
                    color=alt.condition(dark, alt.value("white"), alt.value("#333")),
                )
            )
        width = alt.Step(34 if n_layers <= 12 else 9)
        column = alt.Column(
            "restored:N",
            title=None,
            sort=[*_COMPONENTS.values()],
            header=alt.Header(labelExpr="split(datum.label, '|')"),
        )
        panels.append(
            alt.layer(*layers).properties(width=width, height=alt.Step(22)).facet(column=column).properties(title=model)
        )
    return alt.vconcat(*panels)


def plot_effect_curves(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Effects by layer with intervals, one block per model: columns are corruptions, by probability and logit difference."""
    rows = _restored_fractions(table)
    rows = rows[(rows["component"] == "residual") & rows["token_role"].isin(["subject_last", "relation", "last"])]
    blocks = []
    for model, model_rows in rows.groupby("model", sort=False):
        charts = []
        for scale, scale_rows in model_rows.groupby("scale", sort=False):
            base = alt.Chart(scale_rows).encode(
                x=alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d")),
                y=alt.Y("estimate:Q", title=f"fraction {scale}", axis=alt.Axis(format="%")),
                color=alt.Color("role:N", title="residual stream at", sort=[*ROLES.values()]),
            )
            column = alt.Column("corrupted:N", title=None, sort=[*_CORRUPTIONS.values()])
            charts.append(figures.line_with_band(base).properties(width=170, height=120).facet(column=column))
        blocks.append(alt.hconcat(*charts).properties(title=model))
    return alt.vconcat(*blocks)
