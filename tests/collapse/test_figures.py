"""What figures of collapse draw of tables whose numbers are known."""

from __future__ import annotations

import pandas as pd
import pytest

from factlife.collapse import figures

SHARES = {"control": 0.0, "half": 0.5, "all": 1.0, "other": 1.0}


def losses():
    rows = [
        {"arm": arm, "seed": "all", "generation": generation, "group": group, "metric": "recall_lost", "estimate": lost}
        for arm, lost in (("half", 0.1), ("all", 0.4), ("other", 0.7))
        for group in ("all", "tail")
        for generation in (0, 1)
    ]
    return pd.DataFrame(rows).assign(ci_low=0.0, ci_high=1.0)


def found(*rows):
    columns = ["arm", "analysis", "indicator", "metric", "estimate", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def points(chart):
    """Rows of the lowest panel by group: share and estimate."""
    rows = pd.DataFrame(next(rows for rows in chart.to_dict()["datasets"].values() if "share" in rows[0]))
    return {group: list(zip(of["share"], of["estimate"], strict=True)) for group, of in rows.groupby("group")}


def test_losses_stand_at_their_arms_shares_and_other_arms_are_left_out():
    stages = found(
        ("all", "threshold", "recall", "share", 0.3, 0.2, 0.4),
        ("half", "effect", "synthetic_share", "recall_lost", -0.3, -0.4, -0.2),
        ("other", "effect", "mode", "recall_lost", 0.3, 0.2, 0.4),
    )
    drawn = points(figures.lost(losses(), stages, SHARES))
    assert set(drawn) == {"all facts", "least often stated third"}
    for rows in drawn.values():
        assert [estimate for _, estimate in rows] == [0.1, 0.4]
        assert [share for share, _ in rows] == pytest.approx([0.5, 1.0], abs=0.02)
    # Side by side and not on top of each other.
    assert drawn["all facts"][0][0] < drawn["least often stated third"][0][0]


def test_there_is_no_panel_of_shares_without_a_threshold():
    drawn = figures.lost(losses(), found(("half", "law", "recall", "growing_slope", 0.1, 0.0, 0.2)), SHARES).to_dict()
    assert "vconcat" not in drawn
    assert drawn["facet"]["row"]["sort"] == ["half", "all", "other"]


def test_departures_are_drawn_between_the_first_generation_and_the_last_departure():
    stages = found(
        ("all", "departure", "recall", "generation", 1.0, -2.0, 4.0),
        ("all", "departure", "distinct_2", "generation", 4.5, 4.0, 9.0),
    )
    layers = figures.departures(stages, ["all"]).to_dict()["spec"]["layer"]
    domains = [layer["encoding"]["x"]["scale"]["domain"] for layer in layers if "scale" in layer["encoding"]["x"]]
    assert domains == [[0, 5]]
