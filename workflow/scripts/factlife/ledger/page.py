"""A page on which to look a fact up: one file, no network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from factlife.ledger.columns import describe_column

_TEMPLATE = Path(__file__).with_name("page.html")
_SHOWN = ["subject", "relation", "value", "exposures", "step_learned", "final_recall"]
# A name that ends in _ stands for all columns that begin so.
_STAGES = [
    {"title": "Taught", "columns": ["exposures", "n_supporting_documents", "n_subject_tokens"]},
    {
        "title": "Recalled",
        "columns": ["step_learned", "exposures_to_learn", "final_recall", "final_loss", "final_rank"],
        "curve": True,
    },
    {
        "title": "Located",
        "columns": ["tracing_token", "tracing_layer", "tracing_effect", "circuit_faithfulness", "n_circuit_edges"],
    },
    {
        "title": "Edited",
        "columns": [
            "edit_efficacy_",
            "edit_paraphrase_",
            "not_edited_reason",
            "n_best_edit_sites",
            "best_edit_",
            "edit_retention_",
        ],
    },
    {"title": "Traced to documents", "columns": ["influence_"]},
    {"title": "Lost", "columns": ["generations_recalled_"]},
]


def render_page(
    ledger: pd.DataFrame,
    curves: Mapping[str, Any],
    documents: Mapping[str, Any],
    traced: Mapping[str, Any],
    graphs: Mapping[str, str],
) -> str:
    """The page.

    Args:
        ledger: one row per fact, model and seed.
        curves: by ``{model} seed {seed} {fact_id}``: pairs of statements read and share of templates answered.
        documents: by the same: ``[id, text, kind]`` of some that state the fact.
        traced: by the same: ``[id, text, rankers that put it first, whether it states the fact]``.
        graphs: by the same: the address of the fact's attribution graph, relative to the page.
    """
    # A document that states many facts is kept once.
    numbers: dict[str, int] = {}
    documents, traced = (
        {
            key: [[doc_id, numbers.setdefault(text, len(numbers)), *more] for doc_id, text, *more in rows]
            for key, rows in of_facts.items()
        }
        for of_facts in (documents, traced)
    )
    data = {
        "columns": list(ledger.columns),
        "rows": [[_plain(value) for value in row] for row in ledger.itertuples(index=False)],
        "about": {name: _about(name) for name in ledger.columns},
        "label": {},
        "shown": _SHOWN,
        "stages": _STAGES,
        "curves": curves,
        "documents": documents,
        "traced": traced,
        "texts": list(numbers),
        "graphs": graphs,
    }
    # `</` would end the script element.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return _TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text)


def learning_curves(scores: pd.DataFrame) -> dict[str, list[list[float]]]:
    """How recall of each fact grew, from every probe at every checkpoint of a model."""
    forward = scores[(scores["kind"] == "forward") & scores["representable"]]
    grown = forward.groupby(["model", "seed", "fact_id", "step"], sort=True).agg(
        seen=("exposures", "max"), right=("first_token_correct", "mean")
    )
    found: dict[str, list[list[float]]] = {}
    for (model, seed, fact, _), (seen, right) in zip(grown.index, grown.to_numpy(float).tolist(), strict=True):
        found.setdefault(f"{model} seed {seed} {fact}", []).append([int(seen), round(right, 3)])
    return found


def example_documents(documents: pd.DataFrame, model: str, seed: int, *, each: int = 2) -> dict[str, list[list[str]]]:
    """The first training documents that state each fact."""
    train = documents[documents["split"] == "train"].explode("fact_ids").dropna(subset="fact_ids")
    first = train.groupby("fact_ids", sort=True).head(each)
    found: dict[str, list[list[str]]] = {}
    for row in first.itertuples():
        found.setdefault(f"{model} seed {seed} {row.fact_ids}", []).append([row.doc_id, row.text, row.kind])
    return found


def top_documents(
    rankings: Mapping[str, pd.DataFrame], documents: pd.DataFrame, facts: Mapping[str, str], model: str, seed: int
) -> dict[str, list[list[Any]]]:
    """The document that each ranker puts first for each fact; of equals, the first document.

    Args:
        rankings: by ranker: ``query_id, doc_id, score``.
        documents: all documents.
        facts: the fact of each query.
        model: the model's name.
        seed: the model's seed.
    """
    texts, stated = documents.set_index("doc_id")["text"], documents.set_index("doc_id")["fact_ids"]
    chosen: dict[str, dict[str, list[str]]] = {}
    for ranker, scores in rankings.items():
        for query, place in scores.groupby("query_id")["score"].idxmax().items():
            if query in facts:
                chosen.setdefault(facts[query], {}).setdefault(scores.at[place, "doc_id"], []).append(ranker)
    return {
        f"{model} seed {seed} {fact}": [
            [document, texts[document], sorted(set(rankers)), fact in stated[document]]
            for document, rankers in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
        ]
        for fact, found in sorted(chosen.items())
    }


def graph_links(folder: str | Path, path: str | Path, model: str, seed: int) -> dict[str, str]:
    """Where the attribution graphs of facts are, seen from the page at ``path``: files ``{fact_id}.html`` of a folder."""
    return {
        f"{model} seed {seed} {file.stem}": Path(os.path.relpath(file, Path(path).parent)).as_posix()
        for file in sorted(Path(folder).glob("*.html"))
    }


def _about(name: str) -> str:
    column = describe_column(name)
    return f"{column['meaning']} ({column['unit']})" if column["unit"] else column["meaning"]


def _plain(value: Any) -> Any:
    """As JSON has it: no NaN, no NumPy, and no digits that nobody reads."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 4)
    return value.item() if hasattr(value, "item") else value
