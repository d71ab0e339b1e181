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
    """

    curve: tuple[str, str]
    dots: dict[str, str]
    headline: tuple[str, str, str]
    log_steps: bool = False
    share: bool = True


_SKETCHES = {
    "learning": _Sketch(
        ("exact_match", "facts recalled"),
        {"steps_to_50": "steps to recall 50 %", "steps_to_95": "steps to recall 95 %"},
        ("steps_to_50", "", "Steps until half of all facts are recalled"),
    ),
    "extraction": _Sketch(
        ("question_exact_match", "questions answered"),
        {"final_question_exact_match": "questions answered", "final_statement_exact_match": "statements completed"},
        ("final_question_exact_match", "unasked", "Questions answered about people whose questions were never trained"),
    ),
    "reversal": _Sketch(
        ("accuracy", "true answer first"),
        {"final_accuracy": "true answer first", "final_exact_match": "whole answer written"},
        ("final_accuracy", "reverse, unasked", "True name first among candidates, asked from the value"),
    ),
    "imbalance": _Sketch(
        ("exact_match", "facts recalled"),
        {"plateau_steps": "steps on the plateau", "final_exact_match": "facts recalled in the end"},
        ("plateau_steps", "", "Steps for which the loss stays that of who knows no fact"),
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
        ("confidence_rise", "untaught", "Rise of confidence about people who were never taught"),
    ),
    "forgetting": _Sketch(
        ("exact_match", "facts recalled"),
        {"kept": "recall of early people kept", "final_exact_match": "facts recalled in the end"},
        ("kept", "early", "Recall of early people that is left after late people were taught"),
        log_steps=True,
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
    arms = [control, *(arm for arm in table["arm"].unique() if arm != control)]
    colour = alt.Color(
        "arm:N",
        title=None,
        scale=alt.Scale(domain=arms, range=figures.COLOURS[: len(arms)]),
        legend=alt.Legend(orient="top"),
    )
    drawn = alt.vconcat(_curves(shown, sketch, colour), _dots(shown, sketch, colour, arms), spacing=25)
    title = alt.TitleParams(_finding(shown, sketch), fontWeight="normal", anchor="start", offset=15)
    # Labels of the lower panels stand left of the upper ones, where no room is kept for them.
    return drawn.properties(title=title, padding={"left": 130, "top": 5, "right": 50, "bottom": 5})


def _curves(shown: pd.DataFrame, sketch: _Sketch, colour: alt.Color) -> alt.Chart | alt.FacetChart:
    metric, title = sketch.curve
    rows = shown[(shown["metric"] == metric) & shown["step"].notna()]
    scale = alt.Scale(type="symlog") if sketch.log_steps else alt.Scale(nice=False)
    axis = alt.Axis(values=[0, 1, 3, 10, 30, 100, 300, 1000, 3000]) if sketch.log_steps else alt.Axis(tickCount=6)
    base = alt.Chart(rows).encode(
        x=alt.X("step:Q", title="training step", scale=scale, axis=axis),
        y=figures.share_axis(title) if sketch.share else alt.Y("estimate:Q", title=title),
        color=colour,
        detail="seed:N",
    )
    groups = sorted(rows["group"].unique(), key=lambda group: ("composed" in group, group))
    if len(groups) == 1:
        return figures.with_band(base).properties(width=420, height=220)
    panel = figures.with_band(base).properties(width=190, height=160)
    return panel.facet(alt.Facet("group:N", title=None, sort=groups), columns=3)


def _dots(shown: pd.DataFrame, sketch: _Sketch, colour: alt.Color, arms: list[str]) -> alt.HConcatChart:
    panels = []
    for metric, title in sketch.dots.items():
        # What was never reached is not drawn; the title says so.
        rows = shown[(shown["metric"] == metric) & shown["estimate"].abs().lt(float("inf"))]
        rows = rows.assign(row=rows["group"].where(rows["group"] != "", rows["arm"]))
        order = arms if rows["group"].eq("").all() else alt.Undefined
        y = alt.Y("row:N", title=None, sort=order, axis=alt.Axis(labelLimit=200))
        base = alt.Chart(rows).encode(y=y, yOffset=alt.YOffset("arm:N", sort=arms), color=colour, detail="seed:N")
        bar = base.mark_rule(strokeWidth=2).encode(x="ci_low:Q", x2="ci_high:Q")
        point = base.mark_circle(size=50, opacity=1).encode(
            x=alt.X("estimate:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(domainMin=0))
        )
        panels.append((bar + point).properties(width=150, height=alt.Step(16)))
    return alt.hconcat(*panels, spacing=40)


def _finding(shown: pd.DataFrame, sketch: _Sketch) -> list[str]:
    metric, group, words = sketch.headline
    rows = shown[(shown["metric"] == metric) & (shown["group"] == group) & shown["estimate"].notna()]
    control = rows[rows["arm"] == rows["control"]]
    said = [f"{words}:", *(f"{row.arm} {_number(row.estimate)}" for row in control.head(1).itertuples())]
    for row in rows[rows["arm"] != rows["control"]].groupby("arm", sort=False).head(1).itertuples():
        gap = f", a difference of {row.effect:+.3g} [{row.effect_low:.3g}, {row.effect_high:.3g}]"
        said.append(f"{row.arm} {_number(row.estimate)}{gap if abs(row.effect) < float('inf') else ''}")
    return said


def _number(estimate: float) -> str:
    return f"{estimate:.3g}" if abs(estimate) < float("inf") else "never"


def write(table: pd.DataFrame, comparisons: Mapping[str, str], paths: Iterable[str | Path]) -> None:
    """Draw experiments into files: a path for each name of ``comparisons``, in their order."""
    for (name, comparison), path in zip(comparisons.items(), paths, strict=True):
        figures.write_svg(experiment(table[table["experiment"] == name], comparison), path)
