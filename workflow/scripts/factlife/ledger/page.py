"""The page on which to look up facts: one self-contained HTML file."""

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
_LIST_COLUMNS = ["subject", "relation", "value", "exposures", "step_learned", "final_recall"]
# A name that ends in _ stands for all columns with this prefix.
_STAGES = [
    {"title": "Training data", "columns": ["exposures", "n_supporting_documents", "n_subject_tokens"]},
    {
        "title": "Recall",
        "columns": ["step_learned", "exposures_to_learn", "final_recall", "final_loss", "final_rank"],
        "curve": True,
    },
    {
        "title": "Location",
        "columns": ["tracing_token", "tracing_layer", "tracing_effect", "circuit_faithfulness", "n_circuit_edges"],
    },
    {
        "title": "Editing",
        "columns": [
            "edit_efficacy_",
            "edit_paraphrase_",
            "not_edited_reason",
            "n_best_edit_sites",
            "best_edit_",
            "edit_retention_",
        ],
    },
    {"title": "Influence", "columns": ["influence_"]},
    {"title": "Collapse", "columns": ["generations_recalled_"]},
]


def render_page(
    ledger: pd.DataFrame,
    curves: Mapping[str, Any],
    documents: Mapping[str, Any],
    top_documents: Mapping[str, Any],
    graphs: Mapping[str, str],
) -> str:
    """The page as HTML.

    Args:
        ledger: one row per fact, model and seed.
        curves: by ``{model} seed {seed} {fact_id}``: pairs of exposures and fraction of templates answered.
        documents: by the same key: ``[id, text, kind]`` of example documents that state the fact.
        top_documents: by the same key: ``[id, text, rankers that rank it first, whether it states the fact]``.
        graphs: by the same key: the address of the fact's attribution graph, relative to the page.
    """
    # Each text is stored once, even if it states many facts.
    text_ids: dict[str, int] = {}
    documents, top_documents = (
        {
            key: [[doc_id, text_ids.setdefault(text, len(text_ids)), *rest] for doc_id, text, *rest in rows]
            for key, rows in table.items()
        }
        for table in (documents, top_documents)
    )
    data = {
        "columns": list(ledger.columns),
        "rows": [[_json_value(value) for value in row] for row in ledger.itertuples(index=False)],
        "descriptions": {name: _description(name) for name in ledger.columns},
        "list_columns": _LIST_COLUMNS,
        "stages": _STAGES,
        "curves": curves,
        "documents": documents,
        "top_documents": top_documents,
        "texts": list(text_ids),
        "graphs": graphs,
    }
    # `</` would end the script element.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return _TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text)


def learning_curves(scores: pd.DataFrame) -> dict[str, list[list[float]]]:
    """Recall of each fact over training, from every probe at every checkpoint of a model."""
    forward = scores[(scores["kind"] == "forward") & scores["representable"]]
    recall = forward.groupby(["model", "seed", "fact_id", "step"], sort=True).agg(
        exposures=("exposures", "max"), accuracy=("first_token_correct", "mean")
    )
    curves: dict[str, list[list[float]]] = {}
    for (model, seed, fact, _), (exposures, accuracy) in zip(
        recall.index, recall.to_numpy(float).tolist(), strict=True
    ):
        curves.setdefault(f"{model} seed {seed} {fact}", []).append([int(exposures), round(accuracy, 3)])
    return curves


def example_documents(
    documents: pd.DataFrame, model: str, seed: int, *, per_fact: int = 2
) -> dict[str, list[list[str]]]:
    """The first training documents that state each fact."""
    train = documents[documents["split"] == "train"].explode("fact_ids").dropna(subset="fact_ids")
    first = train.groupby("fact_ids", sort=True).head(per_fact)
    examples: dict[str, list[list[str]]] = {}
    for row in first.itertuples():
        examples.setdefault(f"{model} seed {seed} {row.fact_ids}", []).append([row.doc_id, row.text, row.kind])
    return examples


def top_documents(
    rankings: Mapping[str, pd.DataFrame], documents: pd.DataFrame, facts: Mapping[str, str], model: str, seed: int
) -> dict[str, list[list[Any]]]:
    """The document that each ranker ranks first for each fact; the first document in case of ties.

    Args:
        rankings: by ranker: ``query_id, doc_id, score``.
        documents: all documents.
        facts: the fact of each query.
        model: the model's name.
        seed: the model's seed.
    """
    texts, fact_ids = documents.set_index("doc_id")["text"], documents.set_index("doc_id")["fact_ids"]
    first_documents: dict[str, dict[str, list[str]]] = {}
    for ranker, scores in rankings.items():
        for query, row in scores.groupby("query_id")["score"].idxmax().items():
            if query in facts:
                first_documents.setdefault(facts[query], {}).setdefault(scores.at[row, "doc_id"], []).append(ranker)
    return {
        f"{model} seed {seed} {fact}": [
            [document, texts[document], sorted(set(rankers)), fact in fact_ids[document]]
            for document, rankers in sorted(rankers_by_document.items(), key=lambda item: (-len(item[1]), item[0]))
        ]
        for fact, rankers_by_document in sorted(first_documents.items())
    }


def graph_links(folder: str | Path, path: str | Path, model: str, seed: int) -> dict[str, str]:
    """Addresses of the attribution graphs ``{fact_id}.html`` in a folder, relative to the page at ``path``."""
    return {
        f"{model} seed {seed} {file.stem}": Path(os.path.relpath(file, Path(path).parent)).as_posix()
        for file in sorted(Path(folder).glob("*.html"))
    }


def _description(name: str) -> str:
    column = describe_column(name)
    return f"{column['meaning']} ({column['unit']})" if column["unit"] else column["meaning"]


def _json_value(value: Any) -> Any:
    """A value for JSON: null for missing values, no NumPy types, four decimals."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 4)
    return value.item() if hasattr(value, "item") else value
