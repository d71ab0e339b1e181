"""What figures of collapse draw of tables whose numbers are known."""

from __future__ import annotations

import pandas as pd
import pytest

from factlife.collapse import figures
from factlife.figures import write_svg


def losses():
    rows = [
        {"arm": arm, "seed": "all", "generation": generation, "group": group, "metric": "recall_drop", "estimate": lost}
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
    rows = pd.DataFrame(next(rows for rows in chart.to_dict()["datasets"].values() if "fraction" in rows[0]))
    return {group: list(zip(of["fraction"], of["estimate"], strict=True)) for group, of in rows.groupby("group")}


def test_losses_stand_at_their_arms_shares_and_other_arms_are_left_out():
    stages = found(("all", "threshold", "recall", "synthetic_fraction", 0.3, 0.2, 0.4))
    drawn = points(figures.plot_recall_drop(losses(), stages, [{1.0: "all", 0.5: "half"}]))
    assert set(drawn) == {"all facts", "least frequent third"}
    for rows in drawn.values():
        assert [estimate for _, estimate in sorted(rows)] == [0.0, 0.1, 0.4]
        assert [share for share, _ in sorted(rows)] == pytest.approx([0.0, 0.5, 1.0], abs=0.02)
    # Side by side and not on top of each other.
    assert drawn["all facts"][0][0] < drawn["least frequent third"][0][0]


def test_there_is_no_panel_of_shares_where_no_arms_differ_in_them_alone():
    drawn = figures.plot_recall_drop(losses(), found(), []).to_dict()
    assert "vconcat" not in drawn
    assert drawn["facet"]["row"]["sort"] == ["half", "all", "other"]


def test_onsets_stand_in_the_order_of_their_own_arm():
    stages = found(
        ("all", "onset", "perplexity", "generation", 2.0, 1.0, 3.0),
        ("all", "onset", "recall", "generation", 1.0, -2.0, 4.0),
        ("all", "onset", "distinct_2", "generation", 4.5, 4.0, 9.0),
        ("half", "onset", "recall", "generation", 3.0, 2.0, 4.0),
        ("half", "onset", "perplexity", "generation", 3.0, 2.0, 4.0),
    )
    panels = figures.plot_onsets(stages, ["all", "half", "never"]).to_dict()["concat"]
    assert [panel["title"] for panel in panels] == ["all", "half"]
    orders = [panel["layer"][0]["encoding"]["y"]["sort"] for panel in panels]
    assert orders == [["recall", "perplexity", "distinct 2"], ["perplexity", "recall"]]
    layers = [layer for panel in panels for layer in panel["layer"]]
    domains = [layer["encoding"]["x"]["scale"]["domain"] for layer in layers if "scale" in layer["encoding"]["x"]]
    assert domains == [[0, 5], [0, 5]]


def test_a_figure_without_onsets_says_so(tmp_path):
    path = tmp_path / "onsets.svg"
    write_svg(figures.plot_onsets(found(), ["all"]), path)
    assert "No indicator departs from the control in any arm." in path.read_text()


@pytest.mark.parametrize(("arms", "broken"), [(10, None), (12, [False] * 10 + [True] * 2)])
def test_arms_beyond_the_colours_have_broken_lines(arms, broken):
    rows = [(f"arm-{arm}", generation) for arm in range(arms) for generation in (0, 1)]
    table = pd.DataFrame(rows, columns=["arm", "generation"]).assign(
        seed="0", metric="recall", group="all", estimate=0.5, ci_low=0.4, ci_high=0.6
    )
    line = figures.plot_recall(table).to_dict()["hconcat"][0]["layer"][1]["encoding"]
    dashes = line.get("strokeDash")
    assert (dashes and [dash != [1, 0] for dash in dashes["scale"]["range"]]) == broken
