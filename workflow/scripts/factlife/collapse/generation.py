"""One generation: train, generate texts and evaluate both. Not imported by the package itself, which needs no torch."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from factlife import models
from factlife.collapse import evaluation, gibberish, mixing, sampling
from factlife.collapse.statements import StatementParser
from factlife.config.collapse import CollapseArm, MultipleChoiceTask
from factlife.config.corpora import PeopleCorpus
from factlife.recall.perplexity import corpus_perplexity
from factlife.world import World
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    output, resume, previous_folders = Path(output), Path(resume), [Path(path) for path in previous]
    base_model = models.load_model(base, device)
    reference_model = models.load_model(perplexity_model, device) if perplexity_model else base_model
    real = mixing.real_texts(documents, base_model[1], settings.block_size)
    folder, training_documents = Path(base), None
    if generation:
        samples = [read_table(path / "samples.parquet") for path in previous_folders]
        training_documents = mixing.training_documents(settings, generation, real, samples, seed)
        initial = Path(base) if settings.init_from == "base" else previous_folders[-1] / "model"
        folder = resume / "trained"
        training_seed = 1000 * seed + generation
        _train(settings, training_documents, initial, folder, resume / "training", training_seed, device)
    model, tokenizer = models.load_model(folder, device) if generation else base_model
    texts = _generation_texts(settings, model, tokenizer, real, seed, generation, resume)

    output.mkdir(parents=True, exist_ok=True)
    if training_documents is not None:
        write_table(training_documents, output / "corpus.parquet")
    gibberish_levels: Callable[[Sequence[str]], np.ndarray]
    if gibberish_detector is None:
        gibberish_levels = _own_detector(previous_folders[-1] if generation else None, real, output).score
    else:
        gibberish_levels = gibberish.load_hub_detector(gibberish_detector, device)
    parser = StatementParser(world) if isinstance(corpus, PeopleCorpus) else None
    _write_tables(evaluation.evaluate_texts(texts, reference_model, gibberish_levels, parser), output)
    model_tables = evaluation.evaluate_model(
        model, tokenizer, settings, world=world, tasks=tasks or {}, batch_tokens=batch_tokens,
        held_out=evaluation.held_out_texts(documents, corpus, world, settings.held_out_documents),
    )  # fmt: skip
    _write_tables(model_tables, output)
    models.link_files(folder, output / "model")
    shutil.rmtree(resume)


def summary_line(folder: str | Path) -> str:
    """The key metrics of a finished generation in one line."""
    scores = read_table(Path(folder) / "recall.parquet")
    samples = read_table(Path(folder) / "samples.parquet")
    recall = scores.loc[scores["kind"] == "forward", "exact_match"].astype(float).mean()
    real_perplexity = corpus_perplexity(read_table(Path(folder) / "held_out.parquet"))
    empty_fraction = (samples["words"] == 0).mean()
    return f"recall {recall:.3f}, perplexity of real text {real_perplexity:.2f}, empty texts {empty_fraction:.1%}"


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


def _generation_texts(
    settings: CollapseArm,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    real: pd.DataFrame,
    seed: int,
    generation: int,
    resume: Path,
) -> dict[str, pd.DataFrame]:
    """The texts that a generation generates (``synthetic``), and for generation 0 as many ``real`` ones."""
    real_sample = real.sample(
        settings.samples, replace=len(real) < settings.samples, random_state=1000 * seed + generation
    )
    samples = _read_or_write(
        resume / "samples.parquet",
        lambda: sampling.generate_samples(settings.sampler, model, tokenizer, real_sample, seed, generation),
    )
    if not samples["text"].str.strip().any():
        logging.warning("all texts of generation %d are empty", generation)
    return {"synthetic": samples} | ({} if generation else {"real": real_sample[["text"]]})


def _own_detector(previous: Path | None, real: pd.DataFrame, output: Path) -> gibberish.GibberishDetector:
    """The detector of the previous generation, or one trained on real texts; written into the folder of the generation."""
    if previous is None:
        detector = gibberish.train_detector(real["text"])
    else:
        detector = gibberish.read_detector(previous / "gibberish_detector.safetensors")
    detector.save(output / "gibberish_detector.safetensors")
    accuracy = {"accuracy": detector.accuracy, "n_test": detector.n_test}
    (output / "gibberish_detector.json").write_text(json.dumps(accuracy) + "\n")
    return detector


def _write_tables(tables: Mapping[str, pd.DataFrame], folder: Path) -> None:
    """Write items as Parquet and summaries, which have named rows, as CSV."""
    for name, table in tables.items():
        if table.index.name:
            table.to_csv(folder / f"{name}.csv")
        else:
            write_table(table, folder / f"{name}.parquet")


def _read_or_write(path: Path, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Read a table if the file exists, else compute it and write it completely or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        write_table(compute(), part)
        part.rename(path)
    return read_table(path)
