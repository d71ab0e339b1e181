"""The summary against closed forms, and against figures computed row by row."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlife import world
from factlife.collapse.summary import (
    DECILES,
    FREQUENCIES,
    KEYS,
    _recall_drop_rows,
    calibration_error,
    divergence,
    frequency_groups,
    means_over_seeds,
)
from factlife.config.worlds import PeopleWorld

COUNTS = st.lists(st.integers(0, 20), min_size=2, max_size=12).filter(sum)


def test_the_truth_is_no_distance_from_itself():
    truth = np.array([1.0, 2.0, 5.0])

    figures = divergence(3 * truth, truth)

    assert figures.pop("evenness") == pytest.approx(1)
    assert list(figures.values()) == pytest.approx([0, 0, 0], abs=1e-7)


def test_one_fact_alone_is_as_far_as_it_can_be():
    figures = divergence(np.array([7.0, 0, 0, 0]), np.ones(4))

    assert figures["divergence_tv"] == pytest.approx(0.75)
    assert figures["divergence_hellinger"] == pytest.approx(math.sqrt(1 - 0.5))
    assert figures["divergence_kl"] == pytest.approx(math.log(4))
    assert figures["evenness"] == 0


@given(COUNTS, st.integers(0, 100))
def test_divergences_keep_their_bounds_and_order(stated, seed):
    truth = np.random.default_rng(seed).integers(1, 9, len(stated)).astype(float)

    figures = divergence(np.array(stated, float), truth)

    tv, hellinger, kl = (figures[f"divergence_{name}"] for name in ("tv", "hellinger", "kl"))
    assert 0 <= tv <= 1
    # Le Cam's and Pinsker's inequalities.
    assert hellinger**2 <= tv + 1e-12
    assert tv <= hellinger * math.sqrt(2) + 1e-12
    assert tv <= math.sqrt(kl / 2) + 1e-12


def test_nothing_stated_has_no_divergence():
    assert all(map(math.isnan, divergence(np.zeros(3), np.ones(3)).values()))


def test_calibration_error_is_the_gap_of_a_bin():
    assert calibration_error(np.full(10, 0.75), np.array([1.0] * 6 + [0] * 4)) == pytest.approx(0.15)
    assert calibration_error(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == 0
    # One bin too sure by 0.95, the other not sure enough by 0.15, of one probe each.
    assert calibration_error(np.array([0.95, 0.85]), np.array([0.0, 1.0])) == pytest.approx((0.95 + 0.15) / 2)
    assert math.isnan(calibration_error(np.array([]), np.array([])))


def test_thirds_follow_frequency_and_keep_subjects_whole():
    made = world.build_world(
        PeopleWorld(
            kind="people", people=30, values=12, panel=3, regions=0, exposures={"kind": "levels", "levels": [2, 3, 4]}
        )
    )

    group = frequency_groups(made.facts, FREQUENCIES)

    facts = made.facts[made.facts["seen"]].set_index("fact_id")
    assert dict(zip(facts["exposures"], group[facts.index], strict=True)) == {4: "head", 3: "middle", 2: "tail"}


def test_deciles_hold_a_tenth_of_the_subjects_each_where_none_are_tied():
    facts = pd.DataFrame(
        [
            {"fact_id": f"p{number}.{relation}", "entity_id": f"p{number}", "exposures": 100 - number, "seen": True}
            for number in range(40)
            for relation in ("a", "b")
        ]
    )

    group = frequency_groups(facts, DECILES)

    assert group.value_counts().to_dict() == dict.fromkeys(DECILES, 8)
    assert [group[f"p{number}.a"] for number in (0, 4, 39)] == ["decile-1", "decile-2", "decile-10"]


def test_what_is_lost_is_the_difference_of_the_same_probes(tmp_path):
    made = world.build_world(PeopleWorld(kind="people", people=30, values=12, panel=3, regions=0))
    known = made.facts[made.facts["seen"]]["fact_id"]
    answers = {"mine": [0, 1, 0, 1], "control": [1, 1, 0, 1]}
    for name, exact in answers.items():
        (tmp_path / name).mkdir()
        table = pd.DataFrame({"probe_id": known + ".f", "fact_id": known, "kind": "forward"}).head(4)
        # The control's rows in another order: probes are told by their names.
        table = table.assign(exact_match=exact).iloc[:: 1 if name == "mine" else -1]
        table.to_parquet(tmp_path / name / "recall.parquet")

    rows = _recall_drop_rows(tmp_path / "mine", tmp_path / "control", made, 50).set_index("group")

    assert rows.loc["all", "estimate"] == 0.25
    assert rows.loc["all", "n"] == 4


def test_rows_over_seeds_are_student_s():
    keys = {
        "model": "m",
        "arm": "a",
        "generation": 1,
        "group": "all",
        "metric": "recall",
        "n": 9,
        "interval_over": "facts",
    }
    table = pd.DataFrame([keys | {"seed": str(seed), "estimate": value} for seed, value in enumerate((0.5, 0.6, 0.7))])
    alone = pd.DataFrame([keys | {"seed": "0", "estimate": 0.1, "arm": "b"}])

    rows = means_over_seeds(pd.concat([table, alone]))

    assert list(rows.columns)[: len(KEYS)] == KEYS
    assert len(rows) == 1
    row = rows.iloc[0]
    # The 97.5 % point of t with two degrees of freedom is 4.3027.
    assert (row["seed"], row["n"], row["interval_over"]) == ("all", 3, "seeds")
    assert [row["estimate"], row["ci_low"]] == pytest.approx([0.6, 0.6 - 4.3027 * 0.1 / math.sqrt(3)], abs=1e-4)
