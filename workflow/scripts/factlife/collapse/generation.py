"""One generation: train, generate texts and evaluate both. Not imported by the package itself, which needs no torch."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from factlife import models
from factlife.collapse import gibberish, mixing
from factlife.collapse.diversity import diversity_metrics, word_entropy
from factlife.collapse.formats import format_probes
from factlife.collapse.sampling import sample_texts
from factlife.collapse.statements import StatementParser
from factlife.collapse.tasks import evaluate_tasks
from factlife.config.collapse import CollapseArm, MultipleChoiceTask, Sampler
from factlife.config.corpora import PeopleCorpus
from factlife.corpus import people
from factlife.recall.perplexity import corpus_perplexity, text_losses
from factlife.recall.score import score_probes
from factlife.world import World
from factlife.world.tables import read_table, write_table

# Kinds of probes that every generation is evaluated on.
PROBE_KINDS = ("forward", "paraphrase", "question", "unseen")


def train_generation(
    settings: CollapseArm,
    generation: int,
    seed: int,
    *,
    base: str | Path,
    previous: Sequence[str | Path],
    documents: pd.DataFrame,
    corpus: Any,
    world: World,
    output: str | Path,
    resume: str | Path,
    batch_tokens: int,
    tasks: Mapping[str, tuple[MultipleChoiceTask, pd.DataFrame]] | None = None,
    gibberish_detector: str | Path | None = None,
    perplexity_model: str | Path | None = None,
    device: str = "cpu",
) -> None:
    """Train a generation, generate its texts, evaluate both, and write everything into its folder.

    A killed job resumes from the folder ``resume``, which is removed at success.

    Args:
        settings: settings of the arm.
        generation: its number; generation 0 is the base model without further training.
        seed: seed of all draws.
        base: folder of the model of generation 0.
        previous: folders of the previous generations, in order; mode `replace` only needs the last one.
        documents: the real corpus.
        corpus: config section of the real corpus.
        world: the facts and their probes.
        output: the folder; ``docs/collapse.md`` lists its files.
        resume: folder for the state of a killed job.
        batch_tokens: tokens in a batch of probes.
        tasks: settings and questions of each multiple-choice task.
        gibberish_detector: folder of a classifier from the hub; without one, generation 0 trains a classifier and all later
            generations use it.
        perplexity_model: folder of the model that measures generative perplexity; generation 0 by default.
        device: device to run models on.

    Raises:
        CollapseError: there are no documents to train on.
    """
    output, resume = Path(output), Path(resume)
    parser = StatementParser(world) if isinstance(corpus, PeopleCorpus) else None
    base_model = models.load_model(base, device)
    reference_model = models.load_model(perplexity_model, device) if perplexity_model else base_model
    real = mixing.real_texts(documents, base_model[1], settings.block_size)
    folder = Path(base)
    if generation:
        samples = [read_table(Path(path) / "samples.parquet") for path in previous]
        training_documents = mixing.training_documents(settings, generation, real, samples, seed)
        folder = resume / "trained"
        initial = Path(base if settings.init_from == "base" else Path(previous[-1]) / "model")
        training_seed = 1000 * seed + generation
        _train(settings, training_documents, initial, folder, resume / "training", training_seed, device)
    model, tokenizer = models.load_model(folder, device) if generation else base_model
    real_sample = real.sample(
        settings.samples, replace=len(real) < settings.samples, random_state=1000 * seed + generation
    )
    samples = _read_or_write(
        resume / "samples.parquet",
        lambda: generate_samples(settings, model, tokenizer, real_sample, seed, generation),
    )
    if not samples["text"].str.strip().any():
        logging.warning("all texts of generation %d are empty", generation)
    texts = {"synthetic": samples} | ({} if generation else {"real": real_sample[["text"]]})

    output.mkdir(parents=True, exist_ok=True)
    if generation:
        write_table(training_documents, output / "corpus.parquet")
    if gibberish_detector is None:
        detector = (
            gibberish.read_detector(Path(previous[-1]) / "gibberish_detector.safetensors")
            if generation
            else gibberish.train_detector(real["text"])
        )
        detector.save(output / "gibberish_detector.safetensors")
        accuracy = {"accuracy": detector.accuracy, "n_test": detector.n_test}
        (output / "gibberish_detector.json").write_text(json.dumps(accuracy) + "\n")
        gibberish_levels = detector.score
    else:
        gibberish_levels = gibberish.load_hub_detector(gibberish_detector, device)
    statements = {source: parser.parse(table["text"].tolist()) for source, table in texts.items()} if parser else {}
    for source, table in texts.items():
        measured = _measure_texts(
            table.reset_index(drop=True), reference_model, gibberish_levels, statements.get(source)
        )
        write_table(measured, output / ("samples.parquet" if source == "synthetic" else "real.parquet"))
    if statements:
        tables = [table.assign(source=source) for source, (table, _) in statements.items()]
        write_table(pd.concat(tables, ignore_index=True), output / "statements.parquet")
    diversity = {source: diversity_metrics(table["text"].tolist()) for source, table in texts.items()}
    pd.DataFrame(diversity).rename_axis("metric").to_csv(output / "diversity.csv")
    held_out = held_out_texts(documents, corpus, world, settings.held_out_documents)
    write_table(text_losses(model, tokenizer, held_out), output / "held_out.parquet")
    facts = _probed_facts(world, settings.probed_facts)
    write_table(_score_probes(model, tokenizer, world, facts["fact_id"], batch_tokens), output / "recall.parquet")
    probes = format_probes(world, facts["fact_id"][facts["panel"]].tolist())
    scores = score_probes(model, tokenizer, probes, batch_tokens=batch_tokens)[["representable", "candidate_correct"]]
    write_table(probes[["fact_id", "kind"]].join(scores), output / "formats.parquet")
    write_table(evaluate_tasks(model, tokenizer, tasks or {}), output / "tasks.parquet")
    models.link_files(folder, output / "model")
    shutil.rmtree(resume)


def generate_samples(
    settings: CollapseArm, model: Any, tokenizer: Any, real: pd.DataFrame, seed: int, generation: int
) -> pd.DataFrame:
    """Continue the first tokens of real texts: ``prompt, text, tokens, ends_with_eos``, one row per text."""
    sampler = settings.sampler
    prompts = [_prompt(text, tokenizer, sampler) for text in real["text"]]
    new_ids = sample_texts(model, tokenizer, prompts, sampler, seed=1000 * seed + generation)
    text_ids = [prompt * sampler.keep_prompt + ids for prompt, ids in zip(prompts, new_ids, strict=True)]
    return pd.DataFrame(
        {
            "prompt": tokenizer.batch_decode(prompts, skip_special_tokens=True),
            "text": tokenizer.batch_decode(text_ids, skip_special_tokens=True),
            "tokens": [len(ids) for ids in new_ids],
            "ends_with_eos": [ids[-1] == tokenizer.eos_token_id for ids in new_ids],
        }
    )


def summary_line(folder: str | Path) -> str:
    """The key metrics of a finished generation in one line."""
    scores = read_table(Path(folder) / "recall.parquet")
    samples = read_table(Path(folder) / "samples.parquet")
    recall = scores.loc[scores["kind"] == "forward", "exact_match"].astype(float).mean()
    real_perplexity = corpus_perplexity(read_table(Path(folder) / "held_out.parquet"))
    empty_fraction = (samples["words"] == 0).mean()
    return f"recall {recall:.3f}, perplexity of real text {real_perplexity:.2f}, empty texts {empty_fraction:.1%}"


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
        raise mixing.CollapseError("the real corpus keeps no documents for evaluation; raise its `held_out_fraction`")
    return texts.head(count).tolist()


def _prompt(text: str, tokenizer: Any, sampler: Sampler) -> list[int]:
    """The first tokens of a text, after the beginning-of-text token or inside the tokenizer's chat template."""
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = tokenizer(text)["input_ids"]
    ids = ids[ids[:1] == [tokenizer.bos_token_id] :][: sampler.prompt_tokens]
    if sampler.chat_instruction is None:
        # A model without a beginning-of-text token continues the text alone, if there is any.
        return ids if ids and tokenizer.bos_token_id is None else [bos, *ids]
    # The instruction goes into the user's turn: not every template takes a system message.
    messages = [{"role": "user", "content": f"{sampler.chat_instruction}\n\n{tokenizer.decode(ids)}"}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def _train(
    settings: CollapseArm,
    documents: pd.DataFrame,
    initial: Path,
    folder: Path,
    resume: Path,
    seed: int,
    device: str,
) -> None:
    # Training removes its states last: if there is a model and no state, training had finished before the job was killed.
    if folder.exists() and not resume.exists():
        return
    # If there are both, the job was killed while it wrote the model.
    shutil.rmtree(folder, ignore_errors=True)
    model, tokenizer = models.load_model(initial, device)
    documents = documents.iloc[mixing.training_order(len(documents), settings, seed)]
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = tokenizer(documents["text"].tolist())["input_ids"]
    max_length = settings.training.max_length
    sequences = pd.DataFrame(
        {
            "doc_ids": [[str(i)] for i in documents.index],
            "fact_ids": [[] for _ in ids],
            "input_ids": [
                (row + eos * ends_with_eos)[:max_length]
                for row, ends_with_eos in zip(ids, documents["ends_with_eos"], strict=True)
            ],
        }
    )
    one_epoch = settings.training.model_copy(update={"epochs": 1})
    models.train_model(model, tokenizer, sequences, one_epoch, seed=seed, output=folder, resume=resume)


def _read_or_write(path: Path, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Read a table if the file exists, else compute it and write it completely or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        write_table(compute(), part)
        part.rename(path)
    return read_table(path)


def _measure_texts(
    texts: pd.DataFrame,
    reference_model: tuple[Any, Any],
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


def _probed_facts(world: World, count: int | None) -> pd.DataFrame:
    """The facts to probe, all without a count; the same facts in every generation of every arm."""
    if count is None:
        return world.facts
    # The panel first, then others at random.
    shuffled = world.facts.sample(frac=1, random_state=0).sort_values("panel", ascending=False, kind="stable")
    return world.facts[world.facts["fact_id"].isin(shuffled["fact_id"][:count])]


def _score_probes(model: Any, tokenizer: Any, world: World, facts: pd.Series, batch_tokens: int) -> pd.DataFrame:
    """Scores of one probe of each kind about each fact."""
    probes = world.probes[world.probes["kind"].isin(PROBE_KINDS) & world.probes["fact_id"].isin(facts)]
    probes = probes.drop_duplicates(["fact_id", "kind"]).reset_index(drop=True)
    table = pd.concat([probes, score_probes(model, tokenizer, probes, batch_tokens=batch_tokens)], axis=1)
    table = table.join(world.facts.set_index("fact_id")[["relation", "exposures", "panel"]], on="fact_id")
    return table.drop(columns=["prompt", "candidates", "supporting_fact_ids"])
