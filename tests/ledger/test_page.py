"""The page on which to look up facts."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd

from factlife.ledger.page import example_documents, graph_links, learning_curves, render_page, top_documents


def ledger(**changes):
    row = {
        "model": "m", "seed": 0, "fact_id": "p0.city", "entity_id": "p0", "subject": "Ann </script> & Co", "relation": "city",
        "value": "Rome", "panel": True, "exposures": 2, "step_learned": np.nan, "final_loss": 0.123456,
    }  # fmt: skip
    return pd.DataFrame([row | changes])


def data(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_page_holds_the_ledger_and_null_is_not_zero():
    text = render_page(ledger(), {"m seed 0 p0.city": [[0, 0.0]]}, {}, {}, {})
    result = data(text)
    row = dict(zip(result["columns"], result["rows"][0], strict=True))
    assert row["subject"] == "Ann </script> & Co" and row["step_learned"] is None
    assert row["final_loss"] == 0.1235 and row["exposures"] == 2 and row["panel"] is True
    assert result["curves"] == {"m seed 0 p0.city": [[0, 0.0]]}
    assert set(result["descriptions"]) == set(result["columns"]) >= set(result["list_columns"]) & set(result["columns"])


def test_page_needs_no_network():
    assert not re.findall(r'(?:src|href)="(?!\$)|https?://|@import|url\(', render_page(ledger(), {}, {}, {}, {}))


def test_curves_are_of_trained_templates_at_every_checkpoint():
    rows = [(step, right, kind) for step in (0, 9) for right, kind in ((step > 0, "forward"), (False, "question"))]
    scores = pd.DataFrame(rows, columns=["step", "first_token_correct", "kind"])
    scores = scores.assign(model="m", seed=0, fact_id="f", exposures=scores["step"] * 2, representable=True)
    assert learning_curves(scores) == {"m seed 0 f": [[0, 0.0], [18, 1.0]]}


def test_examples_are_training_documents_that_state_the_fact():
    rows = [("d0", ["f"], "test"), ("d1", ["f", "g"], "train"), ("d2", [], "train"), ("d3", ["f"], "train")]
    documents = pd.DataFrame(rows, columns=["doc_id", "fact_ids", "split"]).assign(text="T", kind="biography")
    result = example_documents(documents, "m", 0, per_fact=1)
    assert result == {"m seed 0 f": [["d1", "T", "biography"]], "m seed 0 g": [["d1", "T", "biography"]]}


def test_top_documents_are_those_that_rankers_rank_first():
    documents = pd.DataFrame({"doc_id": ["d0", "d1"], "text": ["S", "T"], "fact_ids": [["f"], ["g"]]})
    scores = pd.DataFrame(
        [("q", "d0", 1.0), ("q", "d1", 2.0), ("r", "d0", 5.0), ("r", "d1", 5.0)],
        columns=["query_id", "doc_id", "score"],
    )
    rankings = {"up": scores, "down": scores.assign(score=-scores["score"]), "same": scores}
    result = top_documents(rankings, documents, {"q": "f", "r": "g"}, "m", 0)
    assert result == {
        "m seed 0 f": [["d1", "T", ["same", "up"], False], ["d0", "S", ["down"], True]],
        "m seed 0 g": [["d0", "S", ["down", "same", "up"], False]],
    }


def test_graph_links_are_relative_to_the_page(tmp_path):
    folder = tmp_path / "results/graphs/m/seed-0"
    folder.mkdir(parents=True)
    for name in ("f.city.html", "f.city.json", "index.html"):
        (folder / name).touch()
    result = graph_links(folder, tmp_path / "results/figures/page.html", "m", 0)
    assert result["m seed 0 f.city"] == "../graphs/m/seed-0/f.city.html" and len(result) == 2
