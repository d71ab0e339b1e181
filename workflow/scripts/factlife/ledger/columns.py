"""What the ledger's columns mean. Beside the tables themselves, because file metadata and documentation read it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column, or a family of columns where the name holds ``{…}``.

    Attributes:
        name: of the column.
        unit: of its values; empty for names and texts.
        source: the artifact that it is taken from.
        meaning: what it says, and when it is null.
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
_PLACES = "places/{model}/seed-{seed}.parquet"
_SURVIVAL = "survival/{model}/seed-{seed}/{editor}.parquet"
_COLLAPSE = "collapse/{arm}/seed-{seed}/generation-{generation}"
_INFLUENCE = "influence/{model}/seed-{seed}.query-metrics.parquet"

COLUMNS = [
    Column("model", "", "config", "The model."),
    Column("seed", "", "config", "Its seed."),
    Column("fact_id", "", _WORLD, "The fact."),
    Column("entity_id", "", _WORLD, "Its subject, the cluster of every interval."),
    Column("subject", "", _WORLD, "The subject's name."),
    Column("relation", "", _WORLD, "What is said of the subject."),
    Column("value", "", _WORLD, "The truth."),
    Column("panel", "yes or no", _WORLD, "Whether the fact is followed through every stage."),
    Column("exposures", "relative", _WORLD, "How often the subject's facts are stated, against the rarest subject's."),
    Column("n_subject_tokens", "tokens", "models/{model}", "Into how many tokens the subject's name is cut."),
    Column(
        "n_supporting_documents", "documents", "corpora/{corpus}", "Training documents that state it. Null: not trained here."
    ),
    Column(
        "step_learned",
        "steps",
        _RECALL,
        "First checkpoint from which at least half of its trained templates are answered at every later one. Null: never.",
    ),
    Column("exposures_to_learn", "statements", _RECALL, "How often it had been stated by then. Null: never learned."),
    Column("final_recall", "share", _RECALL, "Trained templates whose first token is right at the last checkpoint."),
    Column("final_loss", "nats", _RECALL, "Mean loss of its value after trained templates, at the last checkpoint."),
    Column("final_rank", "place", _RECALL, "Mean place of the value's first token in the vocabulary, 1 is best."),
    Column("tracing_token", "", _TRACING, "Token role whose MLP, restored alone, brings most of the answer back."),
    Column("tracing_layer", "layer", _TRACING, "Layer of that MLP, from 0."),
    Column("tracing_effect", "share", _TRACING, "Of the lost logit difference, what that MLP brings back; above 1 where it brings more."),
    Column(
        "circuit_faithfulness", "share", _CIRCUITS, "Of the logit difference, what the circuit of the fact's relation brings back on held-out subjects; the same for all facts of a relation."
    ),
    Column(
        "n_circuit_edges", "edges", _CIRCUITS, "Of the sizes tried, the smallest circuit of its relation with a faithfulness of 0.9. Null: none has it."
    ),
    Column(
        "edit_paraphrase_{editor}", "share", _EDITS, "Held-out templates after which the new value is the most probable, once all edits are made."
    ),
    Column("edit_efficacy_{editor}", "share", _EDITS, "Whether the new value is the most probable after the edited prompt, 0 or 1."),
    Column("not_edited_reason", "", _REQUESTS, "Why no editor was asked to change it. Null: one was, though editors of single edits take fewer, or it is not on the panel."),
    Column("n_best_edit_sites", "places", _PLACES, "Tokens and layers at which it is best edited, by the mean of efficacy, paraphrase and neighbourhood."),
    Column("best_edit_token", "", _PLACES, "Token of these. Null: they have several."),
    Column("best_edit_layer", "layer", _PLACES, "Mean layer of these."),
    Column(
        "edit_retention_{editor}_{finetuning}_{data}", "share", _SURVIVAL, "Whether the edit is left after further training, 0 or 1; a share where several depths were trained. Null: it had not been right before."
    ),
    Column(
        "influence_rank_{ranker}", "place", _INFLUENCE, "Place of the first document that states it or a fact that it follows from, among the documents that were ranked, of which this run may have chosen a part; 1 is best, ties in random order."
    ),
    Column(
        "influence_r_precision_{ranker}", "share", _INFLUENCE, "Of the first R documents, those that state it or a fact that it follows from; R of those ranked do (R-precision)."
    ),
    Column(
        "generations_recalled_{arm}", "generations", _COLLAPSE, "Generations through which at least half of its trained templates are answered (first token); all of the chain's where it is never lost. Null: not known at the start."
    ),
]  # fmt: skip


def describe_column(name: str) -> dict[str, str]:
    """Unit, source and meaning of a column, which may be one of a family.

    Raises:
        KeyError: no column is called so.
    """
    column = COLUMNS[column_order(name)[0]]
    return {"unit": column.unit, "source": column.source, "meaning": column.meaning}


def column_order(name: str) -> tuple[int, str]:
    """Where a column stands in the ledger: by what it is described as, then by name.

    Raises:
        KeyError: no column is called so.
    """
    for number, column in enumerate(COLUMNS):
        if re.fullmatch(re.sub(r"\\{\w+\\}", r"[\\w-]+", re.escape(column.name)), name):
            return number, name
    raise KeyError(f"the ledger's column {name} is not described in ledger/columns.py")


def columns_markdown() -> str:
    """``docs/ledger.md``'s table of columns, in Markdown."""
    rows = [f"| `{each.name}` | {each.unit} | `{each.source}` | {each.meaning} |" for each in COLUMNS]
    return "\n".join(["| column | unit | from | meaning |", "|---|---|---|---|", *rows]) + "\n"
