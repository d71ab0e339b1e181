"""What figures say is what the table says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from factlife.dynamics import figures
from factlife.dynamics.compare import KEYS, MORE, NUMBERS


def table(metric, group, effects):
    rows = [
        {
            "experiment": "x", "arm": arm, "seed": "0", "control": "a", "metric": metric, "n": 9, "estimate": estimate,
            "ci_low": 0.1, "ci_high": 0.4, "interval_over": "facts", "effect": effect, "effect_low": 0.2, "effect_high": 0.31,
            "group": group, "step": step,
        }
        for arm, estimate, effect in effects
        for step in (np.nan, 3)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*KEYS, *NUMBERS, *MORE])


@pytest.mark.parametrize("comparison", figures._SKETCHES)
def test_the_title_states_the_finding(comparison, tmp_path):
    metric, group, words = figures._SKETCHES[comparison].headline
    rows = table(metric, group, [("a", 0.25, np.nan), ("b", 0.5, 0.25), ("c", np.inf, np.inf)])
    title = figures.experiment(rows, comparison).to_dict()["title"]["text"]
    assert title == [f"{words}:", "a 0.25", "b 0.5, a difference of +0.25 [0.2, 0.31]", "c never"]
    figures.write(rows, {"x": comparison}, [tmp_path / "x.svg"])
    assert "never" in (tmp_path / "x.svg").read_text()
