"""What stages say of facts, from tables small enough to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from factlife import ledger
from factlife.ledger import life
from factlife.ledger.columns import COLUMNS, describe, page


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
    found = life.recall(
        scores(
            {
                "stays": [[0, 0], [1, 0], [1, 1]],
                "comes-and-goes": [[1, 1], [0, 0], [1, 1]],
                "lost": [[1, 1], [1, 1], [0, 0]],
                "always": [[1, 1], [1, 1], [0, 1]],
            }
        )
    )
    assert found["step_learned"].to_dict() == pytest.approx(
        {"always": 0, "comes-and-goes": 20, "lost": np.nan, "stays": 10}, nan_ok=True
    )
    assert found["exposures_learned"].to_dict() == pytest.approx(
        {"always": 0, "comes-and-goes": 6, "lost": np.nan, "stays": 3}, nan_ok=True
    )
    assert found["final_recall"].to_dict() == {"always": 0.5, "comes-and-goes": 1.0, "lost": 0.0, "stays": 1.0}
    assert found["final_loss"]["always"] == 1.5 and found["final_rank"]["always"] == 3.0


def test_only_trained_templates_that_can_be_written_count():
    table = pd.concat([scores({"a": [[1]]}), scores({"a": [[0]]}, kind="paraphrase")])
    hidden = scores({"a": [[0]]}).assign(representable=False)
    assert life.recall(pd.concat([table, hidden]))["final_recall"]["a"] == 1.0


def test_support_counts_training_documents():
    documents = pd.DataFrame({"fact_ids": [["a", "b"], ["a"], ["a"], []], "split": ["train", "train", "test", "train"]})
    assert life.support(documents)["supporting_documents"].to_dict() == {"a": 2, "b": 1}


def test_every_column_is_described_in_the_file(tmp_path):
    table = pd.DataFrame({column.name: [1.0] for column in COLUMNS if "{" not in column.name})
    ledger.write(table, tmp_path / "ledger.parquet")
    schema = pq.read_schema(tmp_path / "ledger.parquet")
    for field in schema:
        assert {key.decode(): value.decode() for key, value in field.metadata.items()} == describe(field.name)
    pd.testing.assert_frame_equal(ledger.read(tmp_path / "ledger.parquet"), table)


def test_an_undescribed_column_cannot_be_written(tmp_path):
    with pytest.raises(KeyError, match="shoe_size is not described"):
        ledger.write(pd.DataFrame({"shoe_size": [43]}), tmp_path / "ledger.parquet")


def test_documentation_is_up_to_date():
    text = (Path(__file__).parents[2] / "docs/ledger.md").read_text()
    assert page() in text, "the ledger's columns have changed: run `make docs`"
