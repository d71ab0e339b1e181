"""The style of all figures, and functions that write them as SVG or as self-contained HTML."""

from __future__ import annotations

import re
from pathlib import Path

import altair as alt

# The colour-blind-safe palette of Okabe and Ito, and two colours of Tol.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#882255", "#44aa99"]
_FONT = "Helvetica, Arial, sans-serif"


@alt.theme.register("factlife", enable=True)
def _theme() -> alt.theme.ThemeConfig:
    return {
        "config": {
            "font": _FONT,
            "background": "white",
            # Padding, because browsers without Helvetica or Arial draw wider letters than Vega measures.
            "padding": {"left": 45, "top": 5, "right": 50, "bottom": 5},
            "range": {"category": COLOURS},
            "view": {"continuousWidth": 230, "continuousHeight": 190, "stroke": None},
            "axis": {"gridColor": "#e5e5e5", "domainColor": "#888", "tickColor": "#888", "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"},
            "header": {"labelFontSize": 12, "labelFontWeight": "bold", "titleFontSize": 12},
            "legend": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "symbolStrokeWidth": 3, "symbolOpacity": 1, "labelLimit": 300},
            "title": {"fontSize": 13, "anchor": "start"},
            "line": {"strokeWidth": 2},
        }
    }  # fmt: skip


def write_svg(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart as SVG, with coordinates rounded to visible precision."""
    chart.save(str(path), format="svg")
    svg = Path(path).read_text(encoding="utf-8")
    Path(path).write_text(re.sub(r"\d+\.\d{3,}", lambda match: _round(float(match[0])), svg), encoding="utf-8")


def _round(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def write_html(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart as interactive HTML that includes its library."""
    chart.save(str(path), format="html", inline=True)


def fraction_axis(title: str) -> alt.Y:
    """A vertical axis for fractions, from 0 to 1."""
    return alt.Y("estimate:Q", title=title, scale=alt.Scale(domain=[0, 1]))


def line_with_band(base: alt.Chart) -> alt.LayerChart:
    """A line with points and a band for its interval; the chart must encode x, y ``estimate`` and colour."""
    band = base.mark_area(opacity=0.18, clip=True).encode(y=alt.Y("ci_low:Q"), y2="ci_high:Q")
    return band + base.mark_line(point={"size": 22}, clip=True)
