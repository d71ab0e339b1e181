"""Unit, source and meaning of the ledger's columns, for file metadata and documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column, or a family of columns if the name contains ``{…}``.

    Attributes:
        name: the column's name.
        unit: unit of the values; empty for names and texts.
        source: the artifact from which it comes.
        meaning: the meaning, and when it is null.
    """

    name: str
    unit: str
    source: str
    meaning: str


_WORLD, _RECALL = "worlds/{world}", "recall/{model}/seed-{seed}.parquet"
_TRACING = "tracing/{model}/seed-{seed}.parquet"
_EDITS = "edits/{model}/seed-{seed}/{editor}"
_CIRCUITS = "circuits/{model}/seed-{seed}/evaluation.parquet"
_REQUESTS = "requests/{model}/seed-{seed}/requests.parquet"
_EDIT_SITES = "edit_sites/{model}/seed-{seed}.parquet"
_SURVIVAL = "survival/{model}/seed-{seed}/{editor}.parquet"
_COLLAPSE = "collapse/{model}/{arm}/seed-{seed}/generation-{generation}"
_INFLUENCE = "influence/{model}/seed-{seed}.query-metrics.parquet"

COLUMNS = [
    Column("model", "", "config", "The model."),
    Column("seed", "", "config", "Its seed."),
    Column("fact_id", "", _WORLD, "The fact."),
    Column("entity_id", "", _WORLD, "Its subject, the cluster of every interval."),
    Column("subject", "", _WORLD, "The subject's name."),
    Column("relation", "", _WORLD, "The relation between subject and value."),
    Column("value", "", _WORLD, "The true value."),
    Column("panel", "yes or no", _WORLD, "Whether the fact belongs to the panel, which goes through every stage."),
    Column("exposures", "relative", _WORLD, "How often the subject's facts are stated, relative to the rarest subject."),
    Column("n_subject_tokens", "tokens", "models/{model}", "Number of tokens in the subject's name."),
    Column(
        "n_supporting_documents", "documents", "corpora/{corpus}", "Number of training documents that state the fact. Null: the model was not trained here."
    ),
    Column(
        "step_learned",
        "steps",
        _RECALL,
        "First checkpoint from which on the model answers at least half of the fact's trained templates at every checkpoint. Null: never learned.",
    ),
    Column("exposures_to_learn", "statements", _RECALL, "How often the fact had been stated by that step. Null: never learned."),
    Column("final_recall", "fraction", _RECALL, "Fraction of trained templates with a correct first token at the last checkpoint."),
    Column("final_loss", "nats", _RECALL, "Mean loss of the value after trained templates at the last checkpoint."),
    Column("final_rank", "rank", _RECALL, "Mean rank of the value's first token in the vocabulary at the last checkpoint; 1 is best."),
    Column("tracing_token", "", _TRACING, "Role of the token at which a single restored MLP recovers most of the answer."),
    Column("tracing_layer", "layer", _TRACING, "Layer of that MLP, counted from 0."),
    Column("tracing_effect", "fraction", _TRACING, "Fraction of the lost logit difference that this MLP recovers; can exceed 1."),
    Column(
        "circuit_faithfulness", "fraction", _CIRCUITS, "Faithfulness of the circuit of the fact's relation on validation subjects: the fraction of the logit difference that it recovers. The same for all facts of a relation."
    ),
    Column(
        "n_circuit_edges", "edges", _CIRCUITS, "Size of the smallest evaluated circuit of the relation with a faithfulness of at least 0.9. Null: none reaches it."
    ),
    Column(
        "edit_paraphrase_{editor}", "fraction", _EDITS, "Fraction of held-out templates after which the new value is the most probable, after all edits."
    ),
    Column("edit_efficacy_{editor}", "fraction", _EDITS, "Whether the new value is the most probable after the edited prompt, 0 or 1."),
    Column("not_edited_reason", "", _REQUESTS, "Why no edit was requested for the fact. Null: an edit was requested (editors of single edits take fewer), or the fact is not on the panel."),
    Column("n_best_edit_sites", "sites", _EDIT_SITES, "Number of tokens and layers at which the fact is edited best, by the mean of efficacy, paraphrase and neighbourhood accuracy."),
    Column("best_edit_token", "", _EDIT_SITES, "Token of the best sites. Null: they differ in their token."),
    Column("best_edit_layer", "layer", _EDIT_SITES, "Mean layer of the best sites."),
    Column(
        "edit_retention_{editor}_{finetuning}_{data}", "fraction", _SURVIVAL, "Whether the edit survives further training, 0 or 1; a fraction if several sets of layers were trained. Null: the edit was not correct before."
    ),
    Column(
        "influence_rank_{ranker}", "rank", _INFLUENCE, "Rank of the first document that states the fact or a fact from which it follows, among the ranked documents (possibly a sample of the corpus); 1 is best, ties in random order."
    ),
    Column(
        "influence_r_precision_{ranker}", "fraction", _INFLUENCE, "R-precision: the fraction of the first R documents that state the fact or a fact from which it follows, where R is the number of such documents among those ranked."
    ),
    Column(
        "generations_recalled_{arm}", "generations", _COLLAPSE, "Number of consecutive generations that answer at least half of the fact's trained templates (first token); all generations of the arm if the fact is never lost. Null: not recalled at the start."
    ),
]  # fmt: skip


def describe_column(name: str) -> dict[str, str]:
    """Unit, source and meaning of a column or of its family.

    Raises:
        KeyError: no column has this name.
    """
    column = COLUMNS[column_order(name)[0]]
    return {"unit": column.unit, "source": column.source, "meaning": column.meaning}


def column_order(name: str) -> tuple[int, str]:
    """Sort key of a column: the position of its description, then its name.

    Raises:
        KeyError: no column has this name.
    """
    for i, column in enumerate(COLUMNS):
        if re.fullmatch(re.sub(r"\\{\w+\\}", r"[\\w-]+", re.escape(column.name)), name):
            return i, name
    raise KeyError(f"the ledger's column {name} is not described in ledger/columns.py")


def columns_markdown() -> str:
    """The table of columns in Markdown, for ``docs/ledger.md``."""
    rows = [f"| `{column.name}` | {column.unit} | `{column.source}` | {column.meaning} |" for column in COLUMNS]
    return "\n".join(["| column | unit | from | meaning |", "|---|---|---|---|", *rows]) + "\n"
