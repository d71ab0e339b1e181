"""Training documents of a generation: a mix of real documents and texts of earlier generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from factlife.config.collapse import CollapseArm


class CollapseError(RuntimeError):
    """A generation cannot be trained; the message says why and what to change."""


def real_texts(documents: pd.DataFrame, tokenizer: Any, block_size: int) -> pd.DataFrame:
    """Real texts to train on or to take prompts from: ``text, ends_with_eos``.

    Args:
        documents: the real corpus; only its training split is used.
        tokenizer: counts the tokens of a block.
        block_size: tokens of a block, cut from the concatenated documents; 0 for whole documents.

    Returns:
        Whole documents, or blocks, which do not end with the end-of-text token.
    """
    texts = documents["text"][documents["split"] == "train"]
    if not block_size:
        return pd.DataFrame({"text": texts.to_numpy(), "ends_with_eos": True})
    ids = [id for row in tokenizer(texts.tolist(), add_special_tokens=False)["input_ids"] for id in row]
    starts = range(0, len(ids) - block_size + 1, block_size)
    blocks = tokenizer.batch_decode([ids[start : start + block_size] for start in starts])
    return pd.DataFrame({"text": blocks, "ends_with_eos": False})


def new_documents(
    settings: CollapseArm, generation: int, real: pd.DataFrame, samples: pd.DataFrame | None, seed: int
) -> pd.DataFrame:
    """The documents that a generation adds: texts of the previous generation and fresh real documents.

    Args:
        settings: settings of the arm.
        generation: its number; 0 for the real documents from which `accumulate` starts.
        real: all real documents, with the columns ``text, ends_with_eos``.
        samples: texts of the previous generation, with the same columns and those of the filter; None for generation 0.
        seed: seed of the draw, together with the generation.

    Returns:
        ``text, ends_with_eos, source, generation``: ``source`` is ``real`` or ``synthetic``.

    Raises:
        CollapseError: the corpus has too few real documents, or no generated text passes the filter.
    """
    n_synthetic = 0 if samples is None else n_synthetic_documents(settings, generation)
    n_real = settings.documents - n_synthetic
    if n_real > len(real):
        raise CollapseError(
            f"corpora.{settings.training.corpus} has {len(real)} documents or blocks to train on, but a generation needs {n_real} "
            "real ones; lower `documents` of the arm, or enlarge the corpus"
        )
    rows = np.random.default_rng([seed, generation]).choice(len(real), n_real, replace=False)
    parts = [real.iloc[np.sort(rows)].assign(source="real")]
    if n_synthetic and samples is not None:
        accepted = samples[(samples["text"].str.strip() != "") & _passes_filter(samples, settings.filter)]
        if accepted.empty:
            raise CollapseError(
                f"all {len(samples)} texts of generation {generation - 1} are empty or rejected by the filter, so there is nothing to "
                "train on and the chain ends; lower `generations` to see its results, or lower the learning rates of `training`"
            )
        parts.append(accepted.head(n_synthetic).assign(source="synthetic"))
    columns = ["text", "ends_with_eos", "source"]
    return pd.concat(parts)[columns].assign(generation=generation).reset_index(drop=True)


def _passes_filter(samples: pd.DataFrame, name: str) -> pd.Series:
    """Whether each generated text passes a filter."""
    match name:
        case "unique":
            return ~samples["text"].duplicated()
        case "parsed":
            return samples["parsed_sentences"] == samples["sentences"]
        case "truthful":
            return samples["false_statements"] == 0
    return pd.Series(True, index=samples.index)


def n_synthetic_documents(settings: CollapseArm, generation: int) -> int:
    """Number of synthetic documents that a generation adds if enough texts pass the filter."""
    is_recovering = settings.recover_after is not None and generation > settings.recover_after
    return 0 if is_recovering else round(settings.documents * settings.synthetic_fraction)


def training_documents(
    settings: CollapseArm, generation: int, real: pd.DataFrame, samples: Sequence[pd.DataFrame], seed: int
) -> pd.DataFrame:
    """All documents available to train a generation on.

    Args:
        settings: settings of the arm.
        generation: its number, at least 1.
        real: all real documents, with the columns ``text, ends_with_eos``.
        samples: texts of generations 0, 1, …; `replace` needs only those of the last one.
        seed: seed of all draws.

    Returns:
        Rows of ``new_documents``: those of this generation, or (`accumulate`) of all generations up to this one, or
        (`accumulate-subsample`) a random sample of these, as many as `documents`.
    """
    if settings.mode == "replace":
        return new_documents(settings, generation, real, samples[-1], seed)
    parts = [new_documents(settings, i, real, samples[i - 1] if i else None, seed) for i in range(generation + 1)]
    pool = pd.concat(parts, ignore_index=True)
    if settings.mode == "accumulate-subsample" and len(pool) > settings.documents:
        rows = np.random.default_rng([seed, generation, 1]).choice(len(pool), settings.documents, replace=False)
        pool = pool.iloc[np.sort(rows)].reset_index(drop=True)
    return pool


def training_order(n_documents: int, settings: CollapseArm, seed: int) -> np.ndarray:
    """Indices of the documents in training order, in shuffled passes.

    Trains on `documents` × `epochs` documents in total, or with `accumulate` on all of them × `epochs`.
    """
    documents_per_epoch = n_documents if settings.mode == "accumulate" else settings.documents
    count = max(1, round(documents_per_epoch * settings.training.epochs))
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(n_documents) for _ in range(-(-count // n_documents))])[:count]
