"""What figures of collapse draw of tables whose numbers are known."""

from __future__ import annotations

import pandas as pd
import pytest

from factlife.collapse import figures
from factlife.figures import write_svg


def losses():
    rows = [
        {
            "model": "m",
            "arm": arm,
            "seed": "all",
            "generation": generation,
            "group": group,
            "metric": "recall_drop",
            "estimate": lost,
        }
        for arm, lost in (("half", 0.1), ("all", 0.4), ("other", 0.7))
        for group in ("all", "tail")
        for generation in (0, 1)
    ]
    return pd.DataFrame(rows).assign(ci_low=0.0, ci_high=1.0)


def found(*rows):
    columns = ["arm", "analysis", "indicator", "metric", "estimate", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns).assign(model="m")


def points(chart):
    """Rows of the lowest panel by group: share and estimate."""
    rows = pd.DataFrame(next(rows for rows in chart.to_dict()["datasets"].values() if "fraction" in rows[0]))
    return {group: list(zip(of["fraction"], of["estimate"], strict=True)) for group, of in rows.groupby("group")}


def test_losses_stand_at_their_arms_shares_and_other_arms_are_left_out():
    stages = found(("all", "threshold", "recall", "synthetic_fraction", 0.3, 0.2, 0.4))
    drawn = points(figures.plot_recall_drop(losses(), stages, {"m": [{1.0: "all", 0.5: "half"}]}))
    assert set(drawn) == {"all facts", "least frequent third"}
    for rows in drawn.values():
        assert [estimate for _, estimate in sorted(rows)] == [0.0, 0.1, 0.4]
        assert [share for share, _ in sorted(rows)] == pytest.approx([0.0, 0.5, 1.0], abs=0.02)
    # Side by side and not on top of each other.
    assert drawn["all facts"][0][0] < drawn["least frequent third"][0][0]


def test_there_is_no_panel_of_shares_where_no_arms_differ_in_them_alone():
    drawn = figures.plot_recall_drop(losses(), found(), {"m": []}).to_dict()
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
    panels = figures.plot_onsets(stages).to_dict()["concat"]
    assert [panel["title"] for panel in panels] == ["all", "half"]
    orders = [panel["layer"][0]["encoding"]["y"]["sort"] for panel in panels]
    assert orders == [["recall", "perplexity", "distinct 2"], ["perplexity", "recall"]]
    layers = [layer for panel in panels for layer in panel["layer"]]
    domains = [layer["encoding"]["x"]["scale"]["domain"] for layer in layers if "scale" in layer["encoding"]["x"]]
    assert domains == [[0, 5], [0, 5]]


def test_a_figure_without_onsets_says_so(tmp_path):
    path = tmp_path / "onsets.svg"
    write_svg(figures.plot_onsets(found()), path)
    assert "No indicator departs from the control in any arm." in path.read_text()


@pytest.mark.parametrize(("arms", "broken"), [(10, None), (12, [False] * 10 + [True] * 2)])
def test_arms_beyond_the_colours_have_broken_lines(arms, broken):
    rows = [(f"arm-{arm}", generation) for arm in range(arms) for generation in (0, 1)]
    table = pd.DataFrame(rows, columns=["arm", "generation"]).assign(
        model="m", seed="0", metric="recall", group="all", estimate=0.5, ci_low=0.4, ci_high=0.6
    )
    line = figures.plot_recall(table).to_dict()["hconcat"][0]["layer"][1]["encoding"]
    dashes = line.get("strokeDash")
    assert (dashes and [dash != [1, 0] for dash in dashes["scale"]["range"]]) == broken


def two_models(rows):
    return pd.concat([rows.assign(model="large"), rows.assign(model="small")])


def test_several_models_have_a_block_each_with_their_name():
    stages = found(
        ("all", "threshold", "recall", "synthetic_fraction", 0.3, 0.2, 0.4),
        ("all", "onset", "recall", "generation", 1.0, -2.0, 4.0),
    )
    table, sweep = two_models(losses()), {1.0: "all", 0.5: "half"}
    recall = table.assign(metric="recall")
    for chart in (
        figures.plot_recall(recall),
        figures.plot_recall_drop(table, two_models(stages), {"large": [sweep], "small": []}),
        figures.plot_onsets(two_models(stages)),
        figures.plot_text(table.assign(metric="coverage")),
        figures.plot_formats(
            table.assign(metric="accuracy", group="cloze"),
            table.head(0).assign(task="", subject="", scoring="", num_fewshot=""),
        ),
        figures.plot_stages(recall, two_models(stages), {"large": {"all": "half"}, "small": {"all": "half"}}),
    ):
        assert [block["title"]["text"] for block in chart.to_dict()["vconcat"]] == ["large", "small"]


def test_an_arm_has_the_colour_it_has_in_another_model():
    table = two_models(losses()).assign(metric="recall")
    table = table[(table["model"] == "large") | (table["arm"] == "other")]
    blocks = figures.plot_recall(table).to_dict()["vconcat"]
    domains = [block["hconcat"][0]["layer"][1]["encoding"]["color"]["scale"]["domain"] for block in blocks]
    assert domains == [["half", "all", "other"]] * 2


def test_a_figure_of_arms_without_controls_says_so(tmp_path):
    path = tmp_path / "figure.svg"
    for chart in (
        figures.plot_stages(losses(), found(), {"m": {}}),
        figures.plot_recall_drop(losses().head(0), found(), {"m": []}),
    ):
        write_svg(chart, path)
        assert "No arm has a control." in path.read_text()
