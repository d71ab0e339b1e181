import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_rel

from factlife.influence import comparison


@pytest.fixture
def resampled():
    """Three rankers: two with the same noise, the second always .1 above the first, and one with independent noise."""
    rng = np.random.default_rng(0)
    shared, independent = rng.normal(0.5, 0.2, size=(2, 4000))
    return {"low": (0.5, shared), "high": (0.6, shared + 0.1), "other": (0.4, independent - 0.1)}


def test_differences_use_the_same_draws(resampled):
    table = comparison.differences(resampled, 40).set_index(["ranker", "other_ranker"])
    row = table.loc[("low", "high")]

    assert row[["estimate", "ci_low", "ci_high"]].tolist() == pytest.approx([-0.1] * 3)
    assert row["p"] == pytest.approx(0, abs=1e-12)
    unpaired = table.loc[("low", "other")]
    assert unpaired["p"] == pytest.approx(2 * norm.sf(0.1 / np.sqrt(2 * 0.2**2)), abs=0.02)
    assert unpaired["ci_low"] < 0 < unpaired["ci_high"]


def test_p_is_corrected_by_holm_over_all_pairs(resampled):
    table = comparison.differences(resampled, 40).sort_values("p")

    expected = np.minimum(1, np.maximum.accumulate(table["p"].to_numpy() * [3, 2, 1]))
    np.testing.assert_allclose(table["p_corrected"], expected)


def test_identical_rankers_do_not_differ(resampled):
    table = comparison.differences({"one": resampled["low"], "same": resampled["low"]}, 40)

    assert table[["estimate", "ci_low", "ci_high", "p", "p_corrected"]].to_numpy().tolist() == [[0, 0, 0, 1, 1]]


def test_differences_over_seeds_are_students_t_test():
    values = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [0.5, 1.0, 4.5], "c": [0.0, 0.0, 1.0]})
    table = comparison.differences_over_seeds(values).set_index(["ranker", "other_ranker"])

    expected = ttest_rel(values["a"], values["c"])
    low, high = expected.confidence_interval()
    row = table.loc[("a", "c")]
    assert row[["estimate", "ci_low", "ci_high", "p"]].tolist() == pytest.approx(
        [4 / 3 + 2 / 3, low, high, expected.pvalue]
    )
    assert comparison.over_seeds(values).set_index("ranker").at["a", "estimate"] == pytest.approx(7 / 3)


def test_one_ranker_has_no_pairs(resampled):
    assert comparison.differences({"low": resampled["low"]}, 40).empty
    assert comparison.differences_over_seeds(pd.DataFrame({"a": [1.0, 2.0]})).empty


def test_no_p_without_variance_or_with_few_subjects(resampled):
    assert comparison.differences(resampled, 5)[["p", "p_corrected"]].isna().all(axis=None)
    same = comparison.differences({"one": (0.5, np.full(9, 0.5)), "other": (0.2, np.full(9, 0.2))}, 40).iloc[0]
    assert same["estimate"] == pytest.approx(0.3) and np.isnan(same["p"])
    single = comparison.differences_over_seeds(pd.DataFrame({"a": [1.0], "b": [2.0]})).iloc[0]
    assert single["n"] == 1 and np.isnan(single["p"])
    partly_constant = comparison.differences_over_seeds(
        pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [0.0, 1.0, 3.0], "c": 0.0})
    )
    has_p = partly_constant["p"].notna()
    assert has_p.sum() == 2 and partly_constant.loc[has_p, "p_corrected"].min() == pytest.approx(
        2 * partly_constant["p"].min()
    )
