"""The table of edits: exact small cases."""

import pandas as pd
import pytest

from factlife.editing import summarise_probes
from factlife.editing.summary import KEYS


@pytest.fixture
def table():
    rows = [
        # phase, edit, probe, metric, about, argmax, unchanged
        ("pre", "a.r", "a1", "efficacy", "a.r", False, True),
        ("pre", "a.r", "a2", "paraphrase", "a.r", False, True),
        ("pre", "a.r", "n1", "neighbourhood", "n.r", True, True),
        ("pre", "", "r1", "recall", "b.r", True, True),
        ("pre", "", "r2", "recall", "c.r", False, True),
        ("end", "a.r", "a1", "efficacy", "a.r", True, False),
        ("end", "a.r", "a2", "paraphrase", "a.r", True, False),
        ("end", "a.r", "n1", "neighbourhood", "n.r", True, True),
        ("end", "d.r", "d1", "efficacy", "d.r", True, False),
        ("end", "d.r", "d2", "paraphrase", "d.r", False, False),
        ("end", "d.r", "n2", "neighbourhood", "n.r", False, False),
        ("end", "", "r1", "recall", "b.r", False, False),
        ("end", "", "r2", "recall", "c.r", True, False),
    ]
    verdicts = pd.DataFrame(rows, columns=["phase", "edit_id", "probe_id", "metric", "fact_id", "argmax", "unchanged"])
    verdicts["d_key"] = 8
    verdicts["n_edits"] = verdicts["phase"].map({"pre": 0, "end": 2})
    verdicts = verdicts.assign(model="m", seed=0, editor="e", schedule="batch", generation=verdicts["argmax"])
    verdicts["token_accuracy"] = verdicts["argmax"].astype(float).where(verdicts["probe_id"] != "d2", 0.5)
    verdicts["probability"] = verdicts["argmax"].astype("boolean").where(verdicts["metric"] != "recall")
    return summarise_probes(verdicts, resamples=50)


def value(table, phase, metric, criterion="argmax"):
    rows = table[(table["phase"] == phase) & (table["metric"] == metric) & (table["criterion"] == criterion)]
    assert len(rows) == 1
    return rows["estimate"].iloc[0], rows["n"].iloc[0]


def test_shares_before_and_after(table):
    assert table.columns[: len(KEYS) + 1].tolist() == [*KEYS, "metric"]
    assert value(table, "pre", "efficacy") == (0, 1)
    assert value(table, "end", "efficacy") == (1, 2)
    assert value(table, "end", "paraphrase") == (0.5, 2)
    assert value(table, "end", "recall") == (0.5, 2)
    assert value(table, "end", "unchanged_neighbourhood") == (0.5, 2)


def test_retained_recall_counts_only_facts_that_the_original_model_recalled(table):
    assert value(table, "pre", "retained_recall") == (1, 1)
    assert value(table, "end", "retained_recall") == (0, 1)


def test_recall_has_no_probability_criterion(table):
    assert table[(table["metric"] == "recall") & (table["criterion"] == "probability")].empty


def test_the_score_is_the_harmonic_mean(table):
    assert value(table, "end", "score")[0] == pytest.approx(3 / (1 / 1 + 1 / 0.5 + 1 / 0.5))
    assert value(table, "pre", "score")[0] == 0
    assert value(table, "end", "paraphrase", "token_accuracy") == (0.75, 2)
    assert value(table, "end", "score", "token_accuracy")[0] == pytest.approx(3 / (1 / 1 + 1 / 0.75 + 1 / 0.5))


def test_intervals_hold_their_estimate(table):
    assert ((table["ci_low"] <= table["estimate"]) & (table["estimate"] <= table["ci_high"])).all()
