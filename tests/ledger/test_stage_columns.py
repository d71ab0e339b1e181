"""Columns of the ledger by stage, from tables small enough to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from factlife import ledger
from factlife.ledger import stage_columns
from factlife.ledger.columns import COLUMNS, columns_markdown, describe_column


def scores(answers: dict[str, list[list[int]]], kind="forward") -> pd.DataFrame:
    """Probes whose first tokens are right (1) or wrong (0): for each fact, a list of templates at each checkpoint."""
    rows = [
        {
            "fact_id": fact,
            "step": 10 * step,
            "exposures": 3 * step,
            "kind": kind,
            "representable": True,
            "first_token_correct": bool(right),
            "loss_nats": 2.0 - right,
            "rank": 5 - 4 * right,
        }
        for fact, steps in answers.items()
        for step, templates in enumerate(steps)
        for right in templates
    ]
    return pd.DataFrame(rows)


def test_a_fact_is_learned_when_it_stays():
    result = stage_columns.recall_columns(
        scores(
            {
                "stays": [[0, 0], [1, 0], [1, 1]],
                "comes-and-goes": [[1, 1], [0, 0], [1, 1]],
                "lost": [[1, 1], [1, 1], [0, 0]],
                "always": [[1, 1], [1, 1], [0, 1]],
            }
        )
    )
    assert result["step_learned"].to_dict() == pytest.approx(
        {"always": 0, "comes-and-goes": 20, "lost": np.nan, "stays": 10}, nan_ok=True
    )
    assert result["exposures_to_learn"].to_dict() == pytest.approx(
        {"always": 0, "comes-and-goes": 6, "lost": np.nan, "stays": 3}, nan_ok=True
    )
    assert result["final_recall"].to_dict() == {"always": 0.5, "comes-and-goes": 1.0, "lost": 0.0, "stays": 1.0}
    assert result["final_loss"]["always"] == 1.5 and result["final_rank"]["always"] == 3.0


def test_only_trained_templates_that_can_be_written_count():
    table = pd.concat([scores({"a": [[1]]}), scores({"a": [[0]]}, kind="paraphrase")])
    hidden = scores({"a": [[0]]}).assign(representable=False)
    assert stage_columns.recall_columns(pd.concat([table, hidden]))["final_recall"]["a"] == 1.0


def test_support_counts_training_documents():
    documents = pd.DataFrame({"fact_ids": [["a", "b"], ["a"], ["a"], []], "split": ["train", "train", "test", "train"]})
    assert stage_columns.document_columns(documents)["n_supporting_documents"].to_dict() == {"a": 2, "b": 1}


def test_tracing_peaks_where_most_of_the_answer_comes_back():
    rows = [
        ("a", "replacement", "mlp", 1, "last", 2, 4.0),
        ("a", "replacement", "mlp", 1, "subject_last", 0, 6.0),
        ("a", "replacement", "mlp", 3, "subject_last", 0, 9.0),
        ("a", "replacement", "residual", 1, "last", 3, 10.0),
        ("a", "noise", "mlp", 1, "last", 1, 9.0),
        ("nothing-lost", "replacement", "mlp", 1, "last", 1, 1.0),
    ]
    columns = ["fact_id", "corruption", "component", "window", "token_role", "layer", "indirect_effect_logit_diff"]
    traces = pd.DataFrame(rows, columns=columns).assign(clean_logit_diff=7.0, corrupted_logit_diff=-5.0)
    traces.loc[5, "corrupted_logit_diff"] = 7.0
    assert stage_columns.tracing_columns(traces).reset_index().to_numpy().tolist() == [["a", "subject_last", 0.0, 0.5]]


def test_edits_count_once_they_are_all_made():
    rows = [
        ("a", "memit", "batch", "pre", "efficacy", False),
        ("a", "memit", "batch", "post", "efficacy", True),
        ("a", "memit", "batch", "end", "efficacy", False),
        ("a", "memit", "batch", "end", "paraphrase", True),
        ("a", "memit", "batch", "end", "paraphrase", False),
        ("a", "rome", "single", "post", "efficacy", True),
        ("b", "rome", "single", "post", "efficacy", False),
    ]
    result = stage_columns.edit_columns(
        pd.DataFrame(rows, columns=["edit_id", "editor", "schedule", "phase", "metric", "argmax"])
    )
    assert result.loc["a", ["edit_efficacy_memit", "edit_efficacy_rome", "edit_paraphrase_memit"]].tolist() == [
        0.0,
        1.0,
        0.5,
    ]
    assert result["edit_efficacy_rome"].tolist() == [1.0, 0.0] and np.isnan(result.loc["b", "edit_efficacy_memit"])


def test_a_panel_fact_without_an_edit_says_why():
    requests = pd.DataFrame({"fact_id": ["asked", "dropped"], "dropped": ["", "the subject is not in the prompt"]})
    facts = pd.DataFrame(
        {"panel": [True, True, True, False]}, index=pd.Index(["asked", "dropped", "beyond", "other"], name="fact_id")
    )
    result = stage_columns.request_columns(requests, facts)["not_edited_reason"].to_dict()
    assert set(result) == {"dropped", "beyond"} and result["dropped"] == "the subject is not in the prompt"
    assert result["beyond"].startswith("not among the 2 requests")


def test_a_fact_is_best_edited_where_all_three_are_best():
    rows = [
        ("a", layer, token, metric, bool(correct))
        for layer, token, labels in [(1, "last", [1, 1, 0]), (0, "last", [1, 0, 0]), (2, "first", [1, 0, 0])]
        for metric, correct in zip(("efficacy", "paraphrase", "neighbourhood"), labels, strict=True)
    ]
    rows += [("a", 0, "last", "neighbourhood", True), ("a", 0, "last", "question", True)]
    result = stage_columns.edit_site_columns(
        pd.DataFrame(rows, columns=["edit_id", "layer", "fact_token", "metric", "argmax"])
    )
    assert result.reset_index().to_numpy().tolist() == [["a", 1.0, "last", 1.0]]


def test_of_places_that_are_equally_good_none_is_chosen():
    places = [("a", 0, "last"), ("a", 3, "last"), ("b", 0, "last"), ("b", 1, "first"), ("b", 1, "last")]
    rows = [(*place, "efficacy", place != ("b", 0, "last")) for place in places]
    result = stage_columns.edit_site_columns(
        pd.DataFrame(rows, columns=["edit_id", "layer", "fact_token", "metric", "argmax"])
    )
    assert result.loc["a"].tolist() == [2.0, "last", 1.5]
    assert result.loc["b", "n_best_edit_sites"] == 2.0 and result.loc["b", "best_edit_layer"] == 1.0
    assert pd.isna(result.loc["b", "best_edit_token"])


def test_edits_survive_where_they_had_been_right():
    rows = [
        (fact, group, layers, step, correct)
        for fact, group, layers, labels in [
            ("kept", "edits", "all", [True, False, True]),
            ("kept", "edits", "late", [True, True, False]),
            ("lost", "edits", "all", [True, True, False]),
            ("never", "edits", "all", [False, True, True]),
            ("other", "control", "all", [True, True, True]),
        ]
        for step, correct in zip((0, 10, 30), labels, strict=True)
    ]
    evaluated = pd.DataFrame(rows, columns=["fact_id", "group", "trained_layers", "step", "correct"])
    result = stage_columns.survival_columns(evaluated.assign(editor="memit", finetuning="lora", data="related"))
    assert result["edit_retention_memit_lora_related"].to_dict() == pytest.approx(
        {"kept": 0.5, "lost": 0.0, "never": np.nan}, nan_ok=True
    )


def test_circuits_are_of_the_relation():
    rows = [
        ("city", "a", "faithfulness", 0.7, np.nan, ""),
        ("city", "a", "faithfulness", 0.1, np.nan, "random_weights"),
        ("city", "a", "faithfulness", 0.8, 10.0, ""),
        ("city", "a", "faithfulness", 0.9, 20.0, ""),
        ("city", "a", "faithfulness", 1.0, 40.0, ""),
        ("city", "b", "faithfulness", 1.0, 1.0, ""),
        ("major", "a", "faithfulness", 0.5, np.nan, ""),
        ("major", "a", "faithfulness", 0.8, 40.0, ""),
    ]
    evaluated = pd.DataFrame(rows, columns=["relation", "method", "metric", "estimate", "n_edges", "control"])
    evaluated = evaluated.assign(evaluated_on="validation", step=np.nan)
    facts = pd.DataFrame({"relation": ["city", "major", "employer"]}, index=["f", "g", "h"])
    result = stage_columns.circuit_columns(evaluated, facts)
    assert result["circuit_faithfulness"].to_dict() == pytest.approx({"f": 0.7, "g": 0.5, "h": np.nan}, nan_ok=True)
    assert result["n_circuit_edges"].to_dict() == pytest.approx({"f": 20, "g": np.nan, "h": np.nan}, nan_ok=True)


def test_a_fact_lasts_until_it_is_first_lost():
    grown = {"stays": [1, 1, 1], "lost": [1, 0, 0], "back": [1, 0, 1], "never": [0, 1, 1]}
    chain = [scores({fact: [[row[generation]]] for fact, row in grown.items()}) for generation in range(3)]
    assert stage_columns.collapse_columns("replace", chain)["generations_recalled_replace"].to_dict() == pytest.approx(
        {"stays": 2, "lost": 0, "back": 0, "never": np.nan}, nan_ok=True
    )


def test_influence_is_read_from_whole_rankings():
    rows = [
        ("a", "mrr", "bm25", 0.25, "chain", "all"),
        ("a", "r_precision", "bm25", 0.5, "chain", "all"),
        ("a", "mrr", "bm25", 1.0, "value", "all"),
        ("a", "mrr", "bm25", 1.0, "chain", "window"),
        ("b", "mrr", "bm25", 1.0, "chain", "all"),
    ]
    evaluated = pd.DataFrame(rows, columns=["fact_id", "metric", "ranker", "value", "relevance", "document_kind"])
    result = stage_columns.influence_columns(evaluated)
    assert result["influence_rank_bm25"].to_dict() == {"a": 4.0, "b": 1.0}
    assert result["influence_r_precision_bm25"].to_dict() == pytest.approx({"a": 0.5, "b": np.nan}, nan_ok=True)


def test_every_column_is_described_in_the_file(tmp_path):
    table = pd.DataFrame({column.name: [1.0] for column in COLUMNS if "{" not in column.name})
    ledger.write_ledger(table, tmp_path / "ledger.parquet")
    schema = pq.read_schema(tmp_path / "ledger.parquet")
    for field in schema:
        assert {key.decode(): value.decode() for key, value in field.metadata.items()} == describe_column(field.name)
    pd.testing.assert_frame_equal(ledger.read_ledger(tmp_path / "ledger.parquet"), table)


def test_an_undescribed_column_cannot_be_written(tmp_path):
    with pytest.raises(KeyError, match="shoe_size is not described"):
        ledger.write_ledger(pd.DataFrame({"shoe_size": [43]}), tmp_path / "ledger.parquet")


def test_documentation_is_up_to_date():
    text = (Path(__file__).parents[2] / "docs/ledger.md").read_text()
    assert columns_markdown() in text, "the ledger's columns have changed: run `make docs`"
