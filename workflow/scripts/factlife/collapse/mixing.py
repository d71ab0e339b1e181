"""What a generation learns from: real documents, texts of the models before it, and which of them it reads how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from factlife.config.collapse import Arm


class CollapseError(RuntimeError):
    """A generation cannot be made; the text says why and what to change."""


def real_texts(documents: pd.DataFrame, tokenizer: Any, block_tokens: int) -> pd.DataFrame:
    """Real texts that may be learnt or gone on from: ``text, ended``.

    Args:
        documents: the real corpus, of which the training part is taken.
        tokenizer: counts the tokens of a block.
        block_tokens: tokens of a block, cut from all documents after one another; 0 for whole documents.

    Returns:
        Documents, or blocks, after which no text ends.
    """
    texts = documents["text"][documents["split"] == "train"]
    if not block_tokens:
        return pd.DataFrame({"text": texts.to_numpy(), "ended": True})
    ids = [id for row in tokenizer(texts.tolist(), add_special_tokens=False)["input_ids"] for id in row]
    starts = range(0, len(ids) - block_tokens + 1, block_tokens)
    blocks = tokenizer.batch_decode([ids[start : start + block_tokens] for start in starts])
    return pd.DataFrame({"text": blocks, "ended": False})


def new_documents(
    settings: Arm, generation: int, real: pd.DataFrame, written: pd.DataFrame | None, seed: int
) -> pd.DataFrame:
    """What a generation adds: its share of what the model before it wrote, and fresh real documents.

    Args:
        settings: of the arm.
        generation: its number; 0 for the real documents from which `accumulate` starts.
        real: all real documents, with the columns ``text, ended``.
        written: what the generation before wrote, with the same columns and those of the filter; none for generation 0.
        seed: with the number, of the draw.

    Returns:
        ``text, ended, source, generation``: ``source`` is ``real`` or ``synthetic``.

    Raises:
        CollapseError: there are fewer real documents than the generation takes, or no text was written that may be learnt.
    """
    synthetic = 0 if written is None else synthetic_documents(settings, generation)
    wanted = settings.documents - synthetic
    if wanted > len(real):
        raise CollapseError(
            f"corpora.{settings.training.corpus} has {len(real)} documents or blocks to train on, fewer than the {wanted} real ones that "
            "a generation takes; lower `documents` of the arm, or make the corpus larger"
        )
    drawn = np.random.default_rng([seed, generation]).choice(len(real), wanted, replace=False)
    parts = [real.iloc[np.sort(drawn)].assign(source="real")]
    if synthetic:
        kept = written[(written["text"].str.strip() != "") & _passes(written, settings.filter)].head(synthetic)
        if kept.empty:
            raise CollapseError(
                f"all {len(written)} texts that generation {generation - 1} wrote are empty or do not pass the filter, so there "
                "is nothing to learn from: the chain ends there; lower `generations` to see its results, or the training's "
                "learning rates"
            )
        parts.append(kept.assign(source="synthetic"))
    return pd.concat(parts)[["text", "ended", "source"]].assign(generation=generation).reset_index(drop=True)


def _passes(written: pd.DataFrame, name: str) -> pd.Series:
    """Whether each text that was written may be learnt."""
    match name:
        case "distinct":
            return ~written["text"].duplicated()
        case "whole":
            return written["parsed"] == written["sentences"]
        case "true":
            return written["false_statements"] == 0
    return pd.Series(True, index=written.index)


def synthetic_documents(settings: Arm, generation: int) -> int:
    """How many of a generation's new documents are synthetic, where enough were written that pass."""
    recovering = settings.recover_after is not None and generation > settings.recover_after
    return 0 if recovering else round(settings.documents * settings.synthetic_share)


def corpus(
    settings: Arm, generation: int, real: pd.DataFrame, written: Sequence[pd.DataFrame], seed: int
) -> pd.DataFrame:
    """All documents that a generation may read.

    Args:
        settings: of the arm.
        generation: its number, at least 1.
        real: all real documents, with the columns ``text, ended``.
        written: what generations 0, 1, … wrote; with `replace` only the last is needed.
        seed: of everything drawn.

    Returns:
        Rows of ``new_documents``: this generation's, or (`accumulate`) those of generations 0 to this one, or
        (`accumulate-fixed`) `documents` of these, chosen at random.
    """
    if settings.mode == "replace":
        return new_documents(settings, generation, real, written[-1], seed)
    parts = [
        new_documents(settings, number, real, written[number - 1] if number else None, seed)
        for number in range(generation + 1)
    ]
    pool = pd.concat(parts, ignore_index=True)
    if settings.mode == "accumulate-fixed" and len(pool) > settings.documents:
        chosen = np.random.default_rng([seed, generation, 1]).choice(len(pool), settings.documents, replace=False)
        pool = pool.iloc[np.sort(chosen)].reset_index(drop=True)
    return pool


def readings(size: int, settings: Arm, seed: int) -> np.ndarray:
    """Which documents are read: `documents` × `epochs` of them, or with `accumulate` all there are; none twice before all once."""
    once = size if settings.mode == "accumulate" else settings.documents
    count = max(1, round(once * settings.training.epochs))
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count]
