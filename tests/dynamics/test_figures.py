"""What figures say is what the table says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from factlife.dynamics import figures
from factlife.dynamics.comparison import DETAILS, ESTIMATES, KEYS


def table(metric, group, effects):
    rows = [
        {
            "experiment": "x", "arm": arm, "seed": "0", "control": "a", "metric": metric, "n": 9, "estimate": estimate,
            "ci_low": 0.1, "ci_high": 0.4, "interval_over": "facts", "effect": effect, "effect_low": 0.2, "effect_high": 0.31,
            "group": group, "step": step, "factors": "",
        }
        for arm, estimate, effect in effects
        for step in (np.nan, 3)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*KEYS, *ESTIMATES, *DETAILS])


@pytest.mark.parametrize("comparison", figures._SETTINGS)
def test_the_title_states_the_finding(comparison, tmp_path):
    metric, group, words = figures._SETTINGS[comparison].headline
    rows = table(metric, group, [("a", 0.25, np.nan), ("b", 0.5, 0.25), ("c", np.inf, np.inf)])
    title = figures.plot_experiment(rows, comparison).to_dict()["title"]["text"]
    assert title == [f"{words}:", "a 0.25", "b 0.5, a difference of +0.25 [0.2, 0.31]", "c never"]
    figures.write_figures(rows, {"x": comparison}, [tmp_path / "x.svg"])
    assert "never" in (tmp_path / "x.svg").read_text()


def test_where_factors_are_crossed_the_title_states_their_effects(tmp_path):
    metric, group, words = figures._SETTINGS["extraction"].headline
    rows = table(metric, group, [("a", 0.25, np.nan), ("b", 0.5, 0.25)])
    effects = [
        rows[rows["arm"] == "a"].tail(1).assign(arm="all", factors=factors, step=np.nan, estimate=estimate)
        for factors, estimate in {"order": 0.2, "names": -0.1, "order:names": 0.05}.items()
    ]
    chart = figures.plot_experiment(pd.concat([rows, *effects]), "extraction")
    assert chart.to_dict()["title"]["text"] == [
        f"{words}:", "a 0.25", "effect of order +0.2 [0.1, 0.4]", "effect of names -0.1 [0.1, 0.4]"
    ]  # fmt: skip
    figures.figures.write_svg(chart, tmp_path / "x.svg")
    drawn = (tmp_path / "x.svg").read_text()
    assert "order × names" in drawn and "order:names" not in drawn
    # Factors are no arms.
    assert ">all<" not in drawn


def test_the_title_counts_seeds_and_says_what_is_not_clear():
    metric, group, words = figures._SETTINGS["learning"].headline
    rows = table(metric, group, [("a", 300.0, np.nan), ("b", 250.0, -50.0)])
    rows = rows.assign(seed="all", n=3, effect_low=-120.0, effect_high=20.0)
    title = figures.plot_experiment(rows, "learning").to_dict()["title"]["text"]
    assert title == [f"{words}:", "a 300, mean of 3 seeds", "b 250, a difference of -50 [-120, 20], not significant"]
