"""One figure for each experiment: curves along training, numbers in the end, and what was found in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd

from factlife import figures


@dataclass(frozen=True)
class _Sketch:
    """What is drawn of a comparison.

    Attributes:
        curve: the metric along steps, and the axis's title.
        dots: metrics in the end, and what they are called.
        headline: metric, group and words of the number that the title states.
        log_steps: whether the first steps matter most.
        share: whether the curve lies between 0 and 1.
        fit: the metric of what fits the curve, drawn dashed.
    """

    curve: tuple[str, str]
    dots: dict[str, str]
    headline: tuple[str, str, str]
    log_steps: bool = False
    share: bool = True
    fit: str = ""


_SKETCHES = {
    "learning": _Sketch(
        ("exact_match", "facts recalled"),
        {"steps_to_50": "steps to recall 50 %", "steps_to_95": "steps to recall 95 %"},
        ("steps_to_50", "", "Steps until half of all facts are recalled"),
    ),
    "extraction": _Sketch(
        ("question_exact_match", "questions answered"),
        {"final_question_exact_match": "questions answered", "final_statement_exact_match": "statements completed"},
        ("final_question_exact_match", "qa_heldout", "Questions answered about people whose questions were never trained"),
    ),
    "reversal": _Sketch(
        ("accuracy", "true answer first"),
        {"final_accuracy": "true answer first", "final_exact_match": "whole answer written"},
        ("final_accuracy", "reverse, qa_heldout", "True name first among candidates, asked from the value"),
    ),
    "imbalance": _Sketch(
        ("relative_loss", "loss / loss without any fact"),
        {"plateau_steps": "steps on the plateau", "steps_to_50": "steps to recall 50 %"},
        ("plateau_steps", "as stated", "Steps for which the loss stays that of who knows no fact"),
        share=False,
    ),
    "injection": _Sketch(
        ("retained", "share retained"),
        {"effectivity": "rise of log probability (nats)", "final_retained": "share retained in the end"},
        ("final_retained", "", "Share of what an injection taught that is left in the end"),
        log_steps=True,
    ),
    "capacity": _Sketch(
        ("bits_per_parameter", "bits per parameter"),
        {"final_bits_per_parameter": "bits per parameter", "final_share_of_bits": "share of all bits"},
        ("final_bits_per_parameter", "", "Bits stored for each parameter"),
        share=False,
    ),
    "invention": _Sketch(
        ("confidence", "confidence"),
        {"final_confidence": "confidence in the end", "overconfidence": "confidence less accuracy"},
        ("confidence_rise", "unseen", "Rise of confidence about people who were never taught"),
    ),
    "forgetting": _Sketch(
        ("exact_match", "facts recalled"),
        {"kept": "recall of early people kept", "final_exact_match": "facts recalled in the end"},
        ("kept", "old", "Recall of old people that is left after training on new people"),
        log_steps=True,
        fit="power_law",
    ),
    "curriculum": _Sketch(
        ("accuracy", "true value first"),
        {"final_accuracy": "true value first", "final_confidence": "confidence"},
        ("final_accuracy", "depth 1, composed", "Values of wrappers that no document states"),
    ),
}  # fmt: skip


def experiment(table: pd.DataFrame, comparison: str) -> alt.VConcatChart:
    """The figure of one experiment.

    Args:
        table: its rows.
        comparison: what it measures.
    """
    sketch = _SKETCHES[comparison]
    shown = table[table["seed"] == "all"] if (table["seed"] == "all").any() else table
    control = table["control"].iloc[0]
    arms = [control, *(arm for arm in table.loc[table["factors"] == "", "arm"].unique() if arm != control)]
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=arms, range=figures.COLOURS[: len(arms)]),
        legend=alt.Legend(orient="top", columns=4),
    )
    panels = [_curves(shown, sketch, colour), _dots(shown, sketch, colour, arms)]
    if (shown["factors"] != "").any():
        panels.append(_effects(shown, sketch))
    drawn = alt.vconcat(*panels, spacing=25)
    title = alt.TitleParams(_finding(shown, sketch), fontWeight="normal", anchor="start", offset=15)
    # Labels of the lower panels stand left of the upper ones, where no room is kept for them.
    return drawn.properties(title=title, padding={"left": 130, "top": 5, "right": 50, "bottom": 5})


def _curves(shown: pd.DataFrame, sketch: _Sketch, colour: alt.Color) -> alt.Chart | alt.FacetChart:
    metric, title = sketch.curve
    rows = shown[shown["metric"].isin({metric, sketch.fit}) & shown["step"].notna()]
    scale = alt.Scale(type="symlog") if sketch.log_steps else alt.Scale(nice=False)
    axis = alt.Axis(values=[0, 1, 3, 10, 30, 100, 300, 1000, 3000]) if sketch.log_steps else alt.Axis(tickCount=6)
    base = alt.Chart(rows).encode(
        x=alt.X("step:Q", title="training step", scale=scale, axis=axis),
        y=figures.fraction_axis(title) if sketch.share else alt.Y("estimate:Q", title=title),
        color=colour,
        detail="seed:N",
    )
    groups = sorted(rows["group"].unique(), key=lambda group: "composed" in group)
    drawn = figures.line_with_band(base.transform_filter(alt.datum.metric == metric))
    if sketch.fit:
        drawn += base.transform_filter(alt.datum.metric == sketch.fit).mark_line(strokeDash=[4, 3], clip=True)
    if len(groups) == 1:
        return drawn.properties(width=420, height=220)
    return drawn.properties(width=190, height=160).facet(alt.Facet("group:N", title=None, sort=groups), columns=3)


def _dots(shown: pd.DataFrame, sketch: _Sketch, colour: alt.Color, arms: list[str]) -> alt.HConcatChart:
    panels = []
    for metric, title in sketch.dots.items():
        # What was never reached is not drawn; the title says so.
        rows = shown[(shown["metric"] == metric) & (shown["factors"] == "") & shown["estimate"].abs().lt(float("inf"))]
        rows = rows.assign(row=rows["group"].where(rows["group"] != "", rows["arm"]))
        ungrouped = rows["group"].eq("").all()
        y = alt.Y("row:N", title=None, sort=arms if ungrouped else alt.Undefined, axis=alt.Axis(labelLimit=200))
        base = alt.Chart(rows).encode(y=y, color=colour, detail="seed:N")
        if not ungrouped:
            base = base.encode(yOffset=alt.YOffset("arm:N", sort=arms))
        bar = base.mark_rule(strokeWidth=2, clip=True).encode(x="ci_low:Q", x2="ci_high:Q")
        point = base.mark_circle(size=50, opacity=1).encode(
            x=alt.X(
                "estimate:Q", title=title, axis=alt.Axis(tickCount=3, labelOverlap=True), scale=alt.Scale(domainMin=0)
            )
        )
        panels.append(
            (bar + point).properties(width=150, height=alt.Step(16 if ungrouped or rows["row"].nunique() < 5 else 8))
        )
    return alt.hconcat(*panels, spacing=40)


def _effects(shown: pd.DataFrame, sketch: _Sketch) -> alt.LayerChart:
    """What each factor adds, and what factors add to each other's effects, on the number that the title states."""
    metric, group, _ = sketch.headline
    rows = shown[(shown["metric"] == metric) & (shown["group"] == group) & (shown["factors"] != "")]
    rows = rows[rows["estimate"].abs().lt(float("inf"))].assign(factors=rows["factors"].str.replace(":", " × "))
    y = alt.Y("factors:N", title=None, sort=None, axis=alt.Axis(labelLimit=200))
    base = alt.Chart(rows).encode(y=y, detail="seed:N")
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(color="#999").encode(x="at:Q")
    bar = base.mark_rule(strokeWidth=2).encode(x="ci_low:Q", x2="ci_high:Q")
    point = base.mark_circle(size=50, opacity=1, color="black").encode(
        x=alt.X("estimate:Q", title="effects of factors and interactions (×)", axis=alt.Axis(tickCount=6))
    )
    return (zero + bar + point).properties(width=420, height=alt.Step(18))


def _finding(shown: pd.DataFrame, sketch: _Sketch) -> list[str]:
    metric, group, words = sketch.headline
    rows = shown[(shown["metric"] == metric) & (shown["group"] == group) & shown["estimate"].notna()]
    control = rows[rows["arm"] == rows["control"]].head(1)
    said = [f"{words}:", *(f"{row.arm} {_number(row.estimate)}" for row in control.itertuples())]
    if (control["seed"] == "all").any():
        said[-1] += f", mean of {control['n'].iloc[0]:.0f} seeds"
    effects = rows[~rows["factors"].str.contains(":") & (rows["factors"] != "")].groupby("factors", sort=False).head(1)
    if len(effects):
        return said + [
            f"effect of {row.factors} {_difference(row.estimate, row.ci_low, row.ci_high)}"
            for row in effects.itertuples()
        ]
    for row in rows[rows["arm"] != rows["control"]].groupby("arm", sort=False).head(1).itertuples():
        gap = f", a difference of {_difference(row.effect, row.effect_low, row.effect_high)}"
        said.append(f"{row.arm} {_number(row.estimate)}{gap if abs(row.effect) < float('inf') else ''}")
    return said


def _difference(estimate: float, low: float, high: float) -> str:
    return f"{estimate:+.3g} [{low:.3g}, {high:.3g}]{', not clear' if low <= 0 <= high else ''}"


def _number(estimate: float) -> str:
    return f"{estimate:.3g}" if abs(estimate) < float("inf") else "never"


def write(table: pd.DataFrame, comparisons: Mapping[str, str], paths: Iterable[str | Path]) -> None:
    """Draw experiments into files: a path for each name of ``comparisons``, in their order."""
    for (name, comparison), path in zip(comparisons.items(), paths, strict=True):
        figures.write_svg(experiment(table[table["experiment"] == name], comparison), path)
