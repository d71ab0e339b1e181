"""Figures of tracing: both read the summary."""

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


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    """Effects as shares of the total effect of replacing the subject, or of noise; the mean over a model's seeds."""
    names = {"": "of probability", "_logit_diff": "of logit difference"}
    parts = []
    for suffix, scale in names.items():
        effects = table[table["metric"] == f"indirect_effect{suffix}"].assign(scale=scale)
        totals = table[table["metric"] == f"total_effect{suffix}"].set_index(["model", "seed", "corruption"])[
            "estimate"
        ]
        # The control's own total effect is next to nothing: it is drawn on the scale of what it controls.
        of = effects["corruption"].replace({"same_answer": "replacement"})
        keys = pd.MultiIndex.from_arrays([effects["model"], effects["seed"], of])
        total = totals.reindex(keys).to_numpy()
        parts.append(effects.assign(**{key: effects[key] / total for key in ("estimate", "ci_low", "ci_high")}))
    shares = pd.concat(parts)
    shares = shares.groupby(
        ["model", "corruption", "component", "window", "token_role", "layer", "scale"], sort=False, as_index=False
    )[["estimate", "ci_low", "ci_high"]].mean()
    return shares.assign(
        role=shares["token_role"].map(ROLES),
        restored=shares["component"].map(_COMPONENTS),
        corrupted=shares["corruption"].map(_CORRUPTIONS),
    )


def effect_heat_map(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Share of the total effect that each token role and layer restores, components across, models down."""
    rows = _shares(table)
    first = "replacement" if "replacement" in set(rows["corruption"]) else "noise"
    rows = rows[(rows["corruption"] == first) & (rows["window"] == 1) & rows["scale"].str.endswith("difference")]
    panels = []
    for model, here in rows.groupby("model", sort=False):
        n_layers = int(here["layer"].max()) + 1
        base = alt.Chart(here).encode(
            x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("role:N", title=None, sort=[*ROLES.values()], axis=alt.Axis(minExtent=80)),
        )
        colour = alt.Color(
            "estimate:Q",
            title="share restored",
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


def effect_curves(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Effects with intervals by layer: corruptions across, probability and logit difference down; one block a model."""
    rows = _shares(table)
    rows = rows[(rows["component"] == "residual") & rows["token_role"].isin(["subject_last", "relation", "last"])]
    blocks = []
    for model, here in rows.groupby("model", sort=False):
        strips = []
        for scale, strip in here.groupby("scale", sort=False):
            base = alt.Chart(strip).encode(
                x=alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d")),
                y=alt.Y("estimate:Q", title=f"share {scale}", axis=alt.Axis(format="%")),
                color=alt.Color("role:N", title="residual stream at", sort=[*ROLES.values()]),
            )
            column = alt.Column("corrupted:N", title=None, sort=[*_CORRUPTIONS.values()])
            strips.append(figures.line_with_band(base).properties(width=170, height=120).facet(column=column))
        blocks.append(alt.hconcat(*strips).properties(title=model))
    return alt.vconcat(*blocks)
