"""Figures are written small, and say what they said."""

from __future__ import annotations

import re

import altair as alt
import pandas as pd

from factlife.figures import write_svg


def test_numbers_of_a_figure_are_as_exact_as_one_sees(tmp_path):
    data = pd.DataFrame({"x": [0.00012345678, 1234.56789], "y": [0.1, 0.2]})
    write_svg(alt.Chart(data).mark_point().encode(x="x:Q", y="y:Q"), tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert re.findall(r'aria-label="x: ([^;]+); y: ([^"]+)"', drawn) == [("0.000123", "0.1"), ("1234.57", "0.2")]
    assert not re.search(r"\d+\.\d{3,}", re.sub(r"0\.0*\d{1,3}\b", "", drawn))
