"""The summary of a small table, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from factlife.recall import summarise_recall
from factlife.recall.summary import KEYS, METRICS

COLUMNS = ["model", "seed", "step", "probe_id", "fact_id", "relation", "kind", "frequency", "exposures", "exact_match"]
NATS = np.log(2)


def row(step, subject, relation, kind, frequency, exposures, right, loss, template="0"):
    fact = f"{subject}.{relation}"
    return {
        "model": "m", "seed": 0, "step": step, "exposures": exposures, "probe_id": f"{fact}.{kind}.{template}",
        "fact_id": fact, "relation": relation, "kind": kind, "frequency": frequency, "first_token_correct": right,
        "exact_match": right, "generation_match": right, "loss_nats": loss, "rank": 1 if right else 5,
        "candidate_probability": 0.5, "candidate_correct": right, "candidate_entropy": 0.1, "confidence": 0.5,
        "chance": 0.25, "representable": loss is not None, "no_knowledge_nats": {"city": 3 * NATS, "job": NATS}[relation],
        "n_parameters": 100,
    }  # fmt: skip


@pytest.fixture
def recall():
    """Two subjects with two facts each, the second four times as frequent; two ways of asking for ada's city."""
    rows = []
    asked = [("ada", "city", "0", True), ("ada", "city", "1", False), ("ada", "job", "0", True)]
    asked += [("ben", "city", "0", True), ("ben", "job", "0", False)]
    for step, times, losses in [(0, 0, (4, 5, 2, 2, 2)), (8, 2, (0, 1, 0, 1, 0.5))]:
        seen = {"ada": times, "ben": 4 * times}
        for (subject, relation, template, right), loss in zip(
            asked,
            losses,
            strict=True,
        ):
            frequency = 1 if subject == "ada" else 4
            rows.append(
                row(
                    step,
                    subject,
                    relation,
                    "forward",
                    frequency,
                    seen[subject],
                    right and step > 0,
                    loss * NATS,
                    template,
                )
            )
        rows.append(row(step, "ben", "job", "question", 4, seen["ben"], True, 0.0))
    return pd.DataFrame(rows).sample(frac=1, random_state=0).astype(TYPES)


TYPES = {
    **dict.fromkeys(["first_token_correct", "exact_match", "generation_match", "candidate_correct"], "boolean"),
    **dict.fromkeys(["loss_nats", "candidate_probability", "candidate_entropy", "confidence"], "Float64"),
    "rank": "Int64",
}


def of(table, metric, **where):
    where = {"step": 8, "exposures": "all", "relation": "all", "probe_kind": "forward"} | where
    rows = table[(table["metric"] == metric) & (table[list(where)] == pd.Series(where)).all(axis=1)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_means_by_hand(recall):
    table = summarise_recall(recall, resamples=100)
    assert of(table, "exact_match")[["n", "estimate"]].tolist() == [5, 0.6]
    assert of(table, "exact_match", step=0)["estimate"] == 0
    assert of(table, "rank")["estimate"] == pytest.approx((1 + 5 + 1 + 1 + 5) / 5)
    assert of(table, "loss_nats")["estimate"] == pytest.approx(0.5 * NATS)
    assert of(table, "exact_match", relation="city")[["n", "estimate"]].tolist() == [3, pytest.approx(2 / 3)]
    assert of(table, "no_knowledge_nats", relation="job")["estimate"] == pytest.approx(NATS)
    assert of(table, "exact_match", probe_kind="question")[["n", "estimate"]].tolist() == [1, 1]
    assert of(table, "exact_match", exposures=2.0)[["n", "estimate"]].tolist() == [3, pytest.approx(2 / 3)]
    assert of(table, "exact_match", exposures=8.0)[["n", "estimate"]].tolist() == [2, 0.5]
    assert of(table, "chance")["estimate"] == 0.25


def test_bits_stored_by_hand(recall):
    """Ada's city 3 - mean(0, 1), job 1 - 0; Ben's city 3 - 1, job 1 - .5; at step 0 no loss is below the entropy."""
    table = summarise_recall(recall, resamples=100)
    assert of(table, "bits_stored")["estimate"] == pytest.approx(2.5 + 1 + 2 + 0.5)
    assert of(table, "bits_stored")["n"] == 4
    assert of(table, "bits_per_parameter")["estimate"] == pytest.approx(0.06)
    assert of(table, "bits_stored", relation="job")["estimate"] == pytest.approx(1.5)
    assert of(table, "bits_stored", exposures=8.0)["estimate"] == pytest.approx(2.5)
    # Ben's city costs 2 of 3 bits before training.
    assert of(table, "bits_stored", step=0)["estimate"] == pytest.approx(1)
    assert (table[table["metric"].isin(["bits_stored", "bits_per_parameter"])]["probe_kind"] == "forward").all()
    both = of(table, "bits_stored")
    assert (both["ci_low"], both["ci_high"]) == (pytest.approx(4 * 2.5 / 2), pytest.approx(4 * 3.5 / 2))


def test_a_fact_that_was_not_scored_stores_no_bits(recall):
    """Its bits are not made up from those of the others."""
    recall.loc[recall["fact_id"] == "ben.city", ["loss_nats", "exact_match"]] = pd.NA
    table = summarise_recall(recall, resamples=100)
    assert of(table, "bits_stored")[["n", "estimate"]].tolist() == [3, pytest.approx(2.5 + 1 + 0.5)]
    assert of(table, "exact_match")[["n", "estimate"]].tolist() == [4, 0.5]


def test_rows_and_columns(recall):
    table = summarise_recall(recall, resamples=10)
    assert table.columns.tolist()[:12] == [*KEYS, "metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]
    assert not table.duplicated([*KEYS, "metric"]).any()
    groups = table[["step", "exposures", "relation", "probe_kind"]].drop_duplicates()
    # Pooled, two relations, two frequencies; one relation and frequency for questions. Both at two steps.
    assert len(groups) == 2 * (1 + 2 + 2) - 1 + 2 * (1 + 1 + 1)
    assert set(table["metric"]) == {*METRICS, "bits_stored", "bits_per_parameter"}
    assert (table["ci_low"] <= table["estimate"] + 1e-9).all() and (table["estimate"] <= table["ci_high"] + 1e-9).all()


def test_intervals_are_over_subjects():
    """Ten probes of each subject that say the same tell no more than one."""
    rng = np.random.default_rng(0)
    once = pd.DataFrame(
        [row(1, f"s{number}", "city", "question", 1, 1, rng.random() < 0.5, 1.0) for number in range(30)]
    )
    often = pd.concat([once.assign(probe_id=once["probe_id"] + str(copy)) for copy in range(10)])
    one, ten = (
        of(summarise_recall(table, resamples=300), "exact_match", step=1, probe_kind="question")
        for table in (once, often)
    )
    assert ten["n"] == 10 * one["n"]
    assert one["ci_high"] - one["ci_low"] > 0.2
    assert (ten["ci_low"], ten["ci_high"]) == (pytest.approx(one["ci_low"]), pytest.approx(one["ci_high"]))
