"""Evaluation of one generation: its texts and its model. Every function returns tables and writes none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from factlife.collapse.diversity import diversity_metrics, word_entropy
from factlife.collapse.formats import format_probes
from factlife.collapse.mixing import CollapseError
from factlife.collapse.statements import StatementParser
from factlife.collapse.tasks import evaluate_tasks
from factlife.config.collapse import CollapseArm, MultipleChoiceTask
from factlife.config.corpora import PeopleCorpus
from factlife.corpus import people
from factlife.recall.perplexity import text_losses
from factlife.recall.score import score_probes
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Kinds of probes that every generation is evaluated on.
PROBE_KINDS = ("forward", "paraphrase", "question", "unseen")


def evaluate_texts(
    texts: Mapping[str, pd.DataFrame],
    reference_model: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    gibberish_levels: Callable[[Sequence[str]], np.ndarray],
    parser: StatementParser | None,
) -> dict[str, pd.DataFrame]:
    """Measure texts.

    Args:
        texts: texts by source, ``synthetic`` or ``real``.
        reference_model: model and tokenizer that measure perplexity.
        gibberish_levels: returns the level of each text, from 0 (noise) to 3 (clean).
        parser: finds the statements in texts; None if there is no grammar.

    Returns:
        Tables by name: the texts as ``samples`` and ``real``, with metrics of each; with a parser, ``statements``; and
        ``diversity``, by metric and source.
    """
    parsed = {source: parser.parse(table["text"].tolist()) for source, table in texts.items()} if parser else {}
    tables = {
        "samples" if source == "synthetic" else source: measure_texts(
            table.reset_index(drop=True), reference_model, gibberish_levels, parsed.get(source)
        )
        for source, table in texts.items()
    }
    if parsed:
        statements = [table.assign(source=source) for source, (table, _) in parsed.items()]
        tables["statements"] = pd.concat(statements, ignore_index=True)
    diversity = {source: diversity_metrics(table["text"].tolist()) for source, table in texts.items()}
    return tables | {"diversity": pd.DataFrame(diversity).rename_axis("metric")}


def measure_texts(
    texts: pd.DataFrame,
    reference_model: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    gibberish_levels: Callable[[Sequence[str]], np.ndarray],
    parsed: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> pd.DataFrame:
    """Texts with metrics of each; ``sentences, parsed_sentences, false_statements`` only if their facts can be parsed."""
    nats = text_losses(*reference_model, texts["text"].tolist())
    columns = {
        "words": texts["text"].str.split().str.len(),
        "entropy": texts["text"].map(word_entropy),
        "perplexity_tokens": nats["tokens"],
        "perplexity_nats": nats["nats"],
        "gibberish_level": gibberish_levels(texts["text"].tolist()),
    }
    if parsed is not None:
        statements, counts = parsed
        n_false = statements["text_index"][statements["verdict"] == "false"].value_counts()
        columns |= {"sentences": counts["sentences"], "parsed_sentences": counts["parsed_sentences"]}
        columns["false_statements"] = n_false.reindex(range(len(texts)), fill_value=0)
    return texts.assign(**columns)


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: CollapseArm,
    *,
    world: World,
    held_out: Sequence[str],
    tasks: Mapping[str, tuple[MultipleChoiceTask, pd.DataFrame]],
    batch_tokens: int,
) -> dict[str, pd.DataFrame]:
    """Measure a model.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        settings: settings of the arm.
        world: the facts and their probes.
        held_out: real texts for perplexity.
        tasks: settings and questions of each multiple-choice task.
        batch_tokens: tokens in a batch of probes.

    Returns:
        Tables by name: ``held_out``, the loss of each text; ``recall`` and ``formats``, the score of each probe; ``tasks``,
        the answer to each question.
    """
    facts = _probed_facts(world, settings.probed_facts)
    panel = facts["fact_id"][facts["panel"]].tolist()
    return {
        "held_out": text_losses(model, tokenizer, held_out),
        "recall": _score_probes(model, tokenizer, world, facts["fact_id"], batch_tokens),
        "formats": _score_formats(model, tokenizer, world, panel, batch_tokens),
        "tasks": evaluate_tasks(model, tokenizer, tasks),
    }


def held_out_texts(documents: pd.DataFrame, corpus: Any, world: World, count: int) -> list[str]:
    """Real texts that no model was trained on: the corpus's held-out split, or new documents about the same facts.

    Raises:
        CollapseError: the corpus has no held-out split and cannot be rendered again.
    """
    texts = documents["text"][documents["split"] == "held_out"]
    if texts.empty and isinstance(corpus, PeopleCorpus):
        changes = {"statements_per_fact": 2, "qa_per_fact": 0, "seed": corpus.seed + 1}
        texts = people.render_documents(world, corpus.model_copy(update=changes))["text"]
        texts = texts[~texts.isin(documents["text"])]
    if texts.empty:
        raise CollapseError("the real corpus keeps no documents for evaluation; raise its `held_out_fraction`")
    return texts.head(count).tolist()


def _probed_facts(world: World, count: int | None) -> pd.DataFrame:
    """The facts to probe, all without a count; the same facts in every generation of every arm."""
    if count is None:
        return world.facts
    # The panel first, then others at random.
    shuffled = world.facts.sample(frac=1, random_state=0).sort_values("panel", ascending=False, kind="stable")
    return world.facts[world.facts["fact_id"].isin(shuffled["fact_id"][:count])]


def _score_probes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, facts: pd.Series, batch_tokens: int
) -> pd.DataFrame:
    """Scores of one probe of each kind about each fact."""
    probes = world.probes[world.probes["kind"].isin(PROBE_KINDS) & world.probes["fact_id"].isin(facts)]
    probes = probes.drop_duplicates(["fact_id", "kind"]).reset_index(drop=True)
    table = pd.concat([probes, score_probes(model, tokenizer, probes, batch_tokens=batch_tokens)], axis=1)
    table = table.join(world.facts.set_index("fact_id")[["relation", "exposures", "panel"]], on="fact_id")
    return table.drop(columns=["prompt", "candidates", "supporting_fact_ids"])


def _score_formats(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, facts: list[str], batch_tokens: int
) -> pd.DataFrame:
    """Scores of the probes in all prompt formats about each fact."""
    probes = format_probes(world, facts)
    scores = score_probes(model, tokenizer, probes, batch_tokens=batch_tokens)[["representable", "candidate_correct"]]
    return probes[["fact_id", "kind"]].join(scores)
