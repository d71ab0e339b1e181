"""Questions across stages, on ledgers with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from factlife.config.ledger import Question
from factlife.ledger.questions import answer_questions, partial_spearman


def make_ledger(subjects=60, facts=4, *, effect=1.0, seed=0):
    """A ledger in which ``outcome`` follows ``predictor`` and both follow ``relation``."""
    rng = np.random.default_rng(seed)
    entity = np.repeat(np.arange(subjects), facts)
    relation = np.tile(np.arange(facts), subjects)
    predictor = rng.normal(size=subjects)[entity] + 3.0 * relation
    outcome = effect * predictor + 3.0 * (1 - effect) * relation + rng.normal(size=len(entity))
    return pd.DataFrame(
        {
            "model": "m",
            "seed": 0,
            "entity_id": entity.astype(str),
            "relation": relation.astype(str),
            "predictor": predictor,
            "outcome": outcome,
        }
    )


def answer_one(ledger, **question):
    keys = {"predictor": "predictor", "outcome": "outcome"} | question
    return answer_questions(ledger, {"q": Question(**keys)}, resamples=400).iloc[0]


@given(st.integers(0, 1000))
def test_without_controls_it_is_spearman(seed):
    x, y = np.random.default_rng(seed).integers(0, 6, (2, 30)).astype(float)
    expected = spearmanr(x, y).statistic
    assert partial_spearman(x, y, np.zeros((30, 0))) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_partial_correlation_of_three_is_the_textbook_one():
    x, y, z = np.random.default_rng(1).permuted(np.tile(np.arange(40.0), (3, 1)), axis=1)
    xy, xz, yz = (spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert partial_spearman(x, y, z[:, None]) == pytest.approx(expected)


def test_an_effect_is_found_and_a_confounded_one_is_not():
    real, confounded = answer_one(make_ledger()), answer_one(make_ledger(effect=0.0))
    assert real["ci_low"] > 0.4 and real["p"] < 0.01
    assert confounded["ci_low"] < 0 < confounded["ci_high"] and confounded["p"] > 0.05
    assert answer_one(make_ledger(effect=0.0), controls=[])["estimate"] > 0.5


def test_intervals_cover_the_truth_when_facts_of_a_subject_are_copies():
    """Were facts drawn and not subjects, intervals of copies would be too narrow by the root of their number."""
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        table = pd.DataFrame({"entity_id": np.arange(40).astype(str), "predictor": rng.normal(size=40)})
        table = table.assign(model="m", seed=0, relation="r", outcome=rng.normal(size=40))
        result = answer_one(pd.concat([table] * 9), controls=[])
        covered += result["ci_low"] < 0 < result["ci_high"]
    assert covered >= 34  # of 40 at 95 %; with facts drawn it is about 20


@pytest.mark.parametrize(
    ("change", "question", "note"),
    [
        ({}, {"outcome": "lost"}, "the ledger has no column lost: the stage was not run"),
        ({"outcome": np.nan}, {}, "fewer than 10 facts have all of predictor, outcome, relation"),
        ({"predictor": 1.0}, {}, "predictor is the same for all facts"),
        ({"predictor": "subject_last"}, {}, "predictor is not a number"),
        (
            {"predictor": lambda t: t["relation"].astype(float)},
            {"controls": []},
            "predictor differs between 4 relations only",
        ),
        (
            {"outcome": lambda t: t["relation"].astype(float)},
            {"controls": []},
            "outcome differs between 4 relations only",
        ),
        (
            {"twin": lambda t: t["predictor"]},
            {"controls": ["twin"]},
            "the controls explain predictor or outcome wholly",
        ),
    ],
)
def test_what_cannot_be_answered_says_why(change, question, note):
    result = answer_one(make_ledger().assign(**change), **question)
    assert np.isnan(result["estimate"]) and np.isnan(result["p"]) and result["note"] == note


def test_what_is_the_same_for_a_relation_is_resampled_by_relation():
    """Twelve relations of 20 facts: by facts the interval would be too narrow by the root of their number."""
    table = make_ledger(subjects=20, facts=12, effect=0.0)
    size = np.random.default_rng(0).permutation(12)[table["relation"].astype(int)].astype(float)
    table = table.assign(predictor=size, outcome=size + 4 * table["outcome"])
    result = answer_one(table, controls=[])
    assert (result["n_clusters"], result["interval_over"]) == (12, "relations")
    assert answer_one(make_ledger(subjects=20))["n_clusters"] == 20
    assert result["ci_high"] - result["ci_low"] > 0.5


def test_across_models_these_are_resampled():
    table = pd.concat([make_ledger(seed=seed).assign(model=f"m{seed}", predictor=float(seed)) for seed in range(12)])
    across = {"q": Question(predictor="predictor", outcome="outcome", across_models=True)}
    result = answer_questions(table, across, resamples=50).iloc[0]
    assert (result["n_clusters"], result["interval_over"]) == (12, "models")
    few = answer_questions(table[table["model"].isin(["m0", "m1", "m2"])], across, resamples=50).iloc[0]
    assert np.isnan(few["p"]) and few["note"] == "predictor differs between 3 models only"


def test_a_fact_that_was_never_learned_comes_after_all_that_were():
    table = make_ledger().assign(final_recall=1.0)
    late = table["predictor"].rank()
    lost = late > late.quantile(0.9)
    seen = answer_one(table.assign(step_learned=late), predictor="step_learned", controls=[])
    result = answer_one(table.assign(step_learned=late.mask(lost)), predictor="step_learned", controls=[])
    assert result["n"] == len(table) and result["estimate"] == pytest.approx(seen["estimate"], abs=0.02)
    unasked = table.assign(step_learned=late.mask(lost), final_recall=np.where(lost, np.nan, 1.0))
    assert answer_one(unasked, predictor="step_learned", controls=[])["n"] == (~lost).sum()


def test_p_is_corrected_within_a_model():
    table = pd.concat([make_ledger(), make_ledger(effect=0.0, seed=1).assign(model="n")])
    questions = {name: Question(predictor="predictor", outcome="outcome") for name in ("a", "b")}
    result = answer_questions(table, questions, resamples=200).set_index(["model", "question"])
    assert result.loc["m", "p_corrected"].tolist() == pytest.approx((2 * result.loc["m", "p"]).clip(upper=1).tolist())
    across = {"c": Question(predictor="predictor", outcome="outcome", across_models=True)}
    assert answer_questions(table, across, resamples=50)[["model", "n"]].to_numpy().tolist() == [["all", 480]]
