"""One figure per experiment: curves over training, final metrics, and the main result as its title."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd

from factlife import figures


@dataclass(frozen=True)
class _FigureSettings:
    """Contents of the figure of a comparison.

    Attributes:
        curve: metric over training steps, and the title of its axis.
        final_metrics: final metrics, with the titles of their axes.
        headline: metric, group and description of the number in the title.
        log_steps: whether the step axis is logarithmic.
        is_fraction: whether the curve lies between 0 and 1.
        fit: metric of a fit to the curve, drawn dashed.
    """

    curve: tuple[str, str]
    final_metrics: dict[str, str]
    headline: tuple[str, str, str]
    log_steps: bool = False
    is_fraction: bool = True
    fit: str = ""


_SETTINGS = {
    "learning": _FigureSettings(
        ("exact_match", "recall"),
        {"steps_to_50": "steps to recall 50 %", "steps_to_95": "steps to recall 95 %"},
        ("steps_to_50", "", "Steps to recall 50 % of the facts"),
    ),
    "extraction": _FigureSettings(
        ("question_exact_match", "questions answered"),
        {"final_question_exact_match": "questions answered", "final_statement_exact_match": "statements completed"},
        ("final_question_exact_match", "qa_heldout", "Questions answered about people without questions in training"),
    ),
    "reversal": _FigureSettings(
        ("accuracy", "accuracy among candidates"),
        {"final_accuracy": "accuracy among candidates", "final_exact_match": "exact match"},
        ("final_accuracy", "reverse, qa_heldout", "Accuracy among candidates, from value to name"),
    ),
    "imbalance": _FigureSettings(
        ("relative_loss", "loss / no-knowledge loss"),
        {"plateau_steps": "steps on the plateau", "steps_to_50": "steps to recall 50 %"},
        ("plateau_steps", "frequency weights", "Steps on the plateau at the no-knowledge loss"),
        is_fraction=False,
    ),
    "injection": _FigureSettings(
        ("retainability", "retainability"),
        {"effectivity": "effectivity (nats)", "final_retainability": "final retainability"},
        ("final_retainability", "", "Final retainability of injected facts"),
        log_steps=True,
    ),
    "capacity": _FigureSettings(
        ("bits_per_parameter", "bits per parameter"),
        {"final_bits_per_parameter": "bits per parameter", "final_bits_fraction": "fraction of all bits"},
        ("final_bits_per_parameter", "", "Bits stored per parameter"),
        is_fraction=False,
    ),
    "hallucination": _FigureSettings(
        ("confidence", "confidence"),
        {"final_confidence": "final confidence", "overconfidence": "confidence minus accuracy"},
        ("confidence_rise", "unseen", "Rise of confidence about unseen people"),
    ),
    "forgetting": _FigureSettings(
        ("exact_match", "recall"),
        {"retention": "retention of old people", "final_exact_match": "final recall"},
        ("retention", "old", "Retention of old people after training on new people"),
        log_steps=True,
        fit="power_law",
    ),
    "curriculum": _FigureSettings(
        ("accuracy", "accuracy among candidates"),
        {"final_accuracy": "accuracy among candidates", "final_confidence": "confidence"},
        ("final_accuracy", "depth 1, composed", "Accuracy for values of wrappers that no document states"),
    ),
}  # fmt: skip


def plot_experiment(table: pd.DataFrame, comparison: str) -> alt.VConcatChart:
    """The figure of one experiment.

    Args:
        table: its rows.
        comparison: the experiment's comparison.
    """
    settings = _SETTINGS[comparison]
    rows = table[table["seed"] == "all"] if (table["seed"] == "all").any() else table
    control = table["control"].iloc[0]
    arms = [control, *(arm for arm in table.loc[table["factors"] == "", "arm"].unique() if arm != control)]
    color = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=arms, range=figures.COLOURS[: len(arms)]),
        legend=alt.Legend(orient="top", columns=4),
    )
    panels = [_plot_curves(rows, settings, color), _plot_final_metrics(rows, settings, color, arms)]
    if (rows["factors"] != "").any():
        panels.append(_plot_effects(rows, settings))
    chart = alt.vconcat(*panels, spacing=25)
    title = alt.TitleParams(_title(rows, settings), fontWeight="normal", anchor="start", offset=15)
    # The padding makes room for the labels of the lower panels, which extend to the left of the upper ones.
    return chart.properties(title=title, padding={"left": 130, "top": 5, "right": 50, "bottom": 5})


def _plot_curves(rows: pd.DataFrame, settings: _FigureSettings, color: alt.Color) -> alt.Chart | alt.FacetChart:
    metric, title = settings.curve
    rows = rows[rows["metric"].isin({metric, settings.fit}) & rows["step"].notna()]
    scale = alt.Scale(type="symlog") if settings.log_steps else alt.Scale(nice=False)
    ticks = [0, 1, 3, 10, 30, 100, 300, 1000, 3000]
    axis = alt.Axis(values=ticks) if settings.log_steps else alt.Axis(tickCount=6)
    base = alt.Chart(rows).encode(
        x=alt.X("step:Q", title="training step", scale=scale, axis=axis),
        y=figures.fraction_axis(title) if settings.is_fraction else alt.Y("estimate:Q", title=title),
        color=color,
        detail="seed:N",
    )
    groups = sorted(rows["group"].unique(), key=lambda group: "composed" in group)
    chart = figures.line_with_band(base.transform_filter(alt.datum.metric == metric))
    if settings.fit:
        chart += base.transform_filter(alt.datum.metric == settings.fit).mark_line(strokeDash=[4, 3], clip=True)
    if len(groups) == 1:
        return chart.properties(width=420, height=220)
    return chart.properties(width=190, height=160).facet(alt.Facet("group:N", title=None, sort=groups), columns=3)


def _plot_final_metrics(
    rows: pd.DataFrame, settings: _FigureSettings, color: alt.Color, arms: list[str]
) -> alt.HConcatChart:
    panels = []
    for metric, title in settings.final_metrics.items():
        # Infinite values, which were never reached, are left out; the title mentions them.
        is_finite = rows["estimate"].abs().lt(float("inf"))
        points = rows[(rows["metric"] == metric) & (rows["factors"] == "") & is_finite]
        points = points.assign(row=points["group"].where(points["group"] != "", points["arm"]))
        has_groups = points["group"].ne("").any()
        y = alt.Y("row:N", title=None, sort=alt.Undefined if has_groups else arms, axis=alt.Axis(labelLimit=200))
        base = alt.Chart(points).encode(y=y, color=color, detail="seed:N")
        if has_groups:
            base = base.encode(yOffset=alt.YOffset("arm:N", sort=arms))
        bar = base.mark_rule(strokeWidth=2, clip=True).encode(x="ci_low:Q", x2="ci_high:Q")
        point = base.mark_circle(size=50, opacity=1).encode(
            x=alt.X(
                "estimate:Q", title=title, axis=alt.Axis(tickCount=3, labelOverlap=True), scale=alt.Scale(domainMin=0)
            )
        )
        height = alt.Step(8 if has_groups and points["row"].nunique() >= 5 else 16)
        panels.append((bar + point).properties(width=150, height=height))
    return alt.hconcat(*panels, spacing=40)


def _plot_effects(rows: pd.DataFrame, settings: _FigureSettings) -> alt.LayerChart:
    """Main effects and interactions of the factors on the headline metric."""
    metric, group, _ = settings.headline
    rows = rows[(rows["metric"] == metric) & (rows["group"] == group) & (rows["factors"] != "")]
    rows = rows[rows["estimate"].abs().lt(float("inf"))].assign(factors=rows["factors"].str.replace(":", " × "))
    y = alt.Y("factors:N", title=None, sort=None, axis=alt.Axis(labelLimit=200))
    base = alt.Chart(rows).encode(y=y, detail="seed:N")
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(color="#999").encode(x="at:Q")
    bar = base.mark_rule(strokeWidth=2).encode(x="ci_low:Q", x2="ci_high:Q")
    point = base.mark_circle(size=50, opacity=1, color="black").encode(
        x=alt.X("estimate:Q", title="main effects and interactions (×)", axis=alt.Axis(tickCount=6))
    )
    return (zero + bar + point).properties(width=420, height=alt.Step(18))


def _title(rows: pd.DataFrame, settings: _FigureSettings) -> list[str]:
    metric, group, description = settings.headline
    rows = rows[(rows["metric"] == metric) & (rows["group"] == group) & rows["estimate"].notna()]
    control = rows[rows["arm"] == rows["control"]].head(1)
    lines = [f"{description}:", *(f"{row.arm} {_format_number(row.estimate)}" for row in control.itertuples())]
    if (control["seed"] == "all").any():
        lines[-1] += f", mean of {control['n'].iloc[0]:.0f} seeds"
    effects = rows[~rows["factors"].str.contains(":") & (rows["factors"] != "")].groupby("factors", sort=False).head(1)
    if len(effects):
        return lines + [
            f"effect of {row.factors} {_format_difference(row.estimate, row.ci_low, row.ci_high)}"
            for row in effects.itertuples()
        ]
    for row in rows[rows["arm"] != rows["control"]].groupby("arm", sort=False).head(1).itertuples():
        difference = f", a difference of {_format_difference(row.effect, row.effect_low, row.effect_high)}"
        is_finite = abs(row.effect) < float("inf")
        lines.append(f"{row.arm} {_format_number(row.estimate)}{difference if is_finite else ''}")
    return lines


def _format_difference(estimate: float, low: float, high: float) -> str:
    return f"{estimate:+.3g} [{low:.3g}, {high:.3g}]{', not significant' if low <= 0 <= high else ''}"


def _format_number(estimate: float) -> str:
    return f"{estimate:.3g}" if abs(estimate) < float("inf") else "never"


def write_figures(table: pd.DataFrame, comparisons: Mapping[str, str], paths: Iterable[str | Path]) -> None:
    """Write the figures of experiments, with one path for each name in ``comparisons``, in the same order."""
    for (name, comparison), path in zip(comparisons.items(), paths, strict=True):
        figures.write_svg(plot_experiment(table[table["experiment"] == name], comparison), path)
