"""What a generation learns from: exact counts, nothing twice, and no crash where there is nothing."""

from __future__ import annotations

import pandas as pd
import pytest

from factlife.collapse.mixing import CollapseError, training_documents, training_order
from factlife.config.collapse import CollapseArm

REAL = pd.DataFrame({"text": [f"real {number}" for number in range(60)], "ends_with_eos": True})


def arm(**keys):
    return CollapseArm(**{"documents": 20, "samples": 20, "training": {"corpus": "people"}} | keys)


def texts(number, empty=0):
    rows = [f"written {number} {text}" for text in range(20)]
    return pd.DataFrame({"text": [""] * empty + rows[empty:], "ends_with_eos": [True] * 20})


def counts(table):
    return table.groupby(["source", "generation"]).size().to_dict()


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_replace_takes_its_share_of_the_last_generation_only(share):
    table = training_documents(arm(synthetic_fraction=share), 2, REAL, [texts(0), texts(1)], seed=0)

    synthetic = table["text"][table["source"] == "synthetic"]
    assert len(table) == 20
    assert len(synthetic) == 20 * share
    assert synthetic.str.startswith("written 1").all()
    assert table["text"].is_unique


def test_accumulate_has_real_text_and_all_that_was_written():
    table = training_documents(arm(mode="accumulate"), 3, REAL, [texts(0), texts(1), texts(2)], seed=0)

    assert counts(table) == {("real", 0): 20, ("synthetic", 1): 20, ("synthetic", 2): 20, ("synthetic", 3): 20}
    for generation in (1, 2, 3):
        rows = table["text"][table["generation"] == generation]
        assert rows.str.startswith(f"written {generation - 1}").all()


def test_accumulate_keeps_the_same_real_text_and_grows():
    earlier, later = (
        training_documents(
            arm(mode="accumulate", synthetic_fraction=0.5), generation, REAL, [texts(0), texts(1)], seed=3
        )
        for generation in (1, 2)
    )

    pd.testing.assert_frame_equal(earlier, later.head(len(earlier)))
    assert counts(later)["real", 2] == 10


def test_a_fixed_budget_is_drawn_from_all_that_accumulates():
    settings = arm(mode="accumulate-subsample")
    pool = training_documents(arm(mode="accumulate"), 3, REAL, [texts(0), texts(1), texts(2)], seed=0)

    table = training_documents(settings, 3, REAL, [texts(0), texts(1), texts(2)], seed=0)

    assert len(table) == 20
    assert table["text"].is_unique
    assert set(table["text"]) <= set(pool["text"])
    assert table["generation"].nunique() > 1


def test_real_text_is_fresh_in_each_generation_and_the_same_in_each_run():
    first, again, later = (
        training_documents(arm(synthetic_fraction=0), generation, REAL, [None] * generation, seed=0)["text"].tolist()
        for generation in (1, 1, 2)
    )

    assert first == again
    assert first != later


def test_after_recovery_begins_all_new_text_is_real():
    settings = arm(recover_after=1)

    assert counts(training_documents(settings, 1, REAL, [texts(0)], seed=0)) == {("synthetic", 1): 20}
    assert counts(training_documents(settings, 2, REAL, [texts(1)], seed=0)) == {("real", 2): 20}


def test_empty_texts_are_not_learnt():
    table = training_documents(arm(), 1, REAL, [texts(0, empty=15)], seed=0)

    assert len(table) == 5


@pytest.mark.parametrize(
    ("name", "kept"), [("none", [0, 1, 2, 3]), ("unique", [0, 1, 3]), ("parsed", [1, 2]), ("truthful", [0, 2])]
)
def test_filters_keep_what_they_say(name, kept):
    written = pd.DataFrame(
        {
            "text": ["a", "b", "b", "c"], "ends_with_eos": True, "sentences": [2, 2, 3, 1], "parsed_sentences": [1, 2, 3, 0],
            "false_statements": [0, 1, 0, 2],
        }
    )  # fmt: skip

    table = training_documents(arm(filter=name), 1, REAL, [written], seed=0)

    assert table["text"].tolist() == [written["text"][number] for number in kept]


def test_a_generation_that_wrote_nothing_ends_the_chain_with_a_reason():
    with pytest.raises(CollapseError, match="all 20 texts of generation 1 are empty or rejected by the filter"):
        training_documents(arm(), 2, REAL, [texts(0), texts(1, empty=20)], seed=0)


def test_too_few_real_documents_are_named_with_the_remedy():
    with pytest.raises(
        CollapseError, match=r"corpora.people has 60 documents .* a generation needs 80 .*lower `documents`"
    ):
        training_documents(arm(documents=80, samples=80, synthetic_fraction=0), 1, REAL, [texts(0)], seed=0)


@pytest.mark.parametrize(("size", "epochs"), [(20, 1), (80, 1), (20, 2.5), (7, 1), (1, 1), (80, 0.5)])
@pytest.mark.parametrize("mode", ["replace", "accumulate-subsample", "accumulate"])
def test_arms_read_as_much_or_all_that_accumulates_and_everything_about_equally_often(size, epochs, mode):
    read = training_order(size, arm(mode=mode, training={"corpus": "people", "epochs": epochs}), seed=0)

    assert len(read) == max(1, round((size if mode == "accumulate" else 20) * epochs))
    times = pd.Series(read).value_counts().reindex(range(size), fill_value=0)
    assert times.max() - times.min() <= 1
