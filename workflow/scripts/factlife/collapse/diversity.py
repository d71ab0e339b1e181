"""How varied texts are."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import sacrebleu

# Words over which entropy is taken, so that it does not grow with the length of a text.
MATCHED_WORDS = 16
# Words, for each text of a set, over which distinct n-grams are counted.
WORDS_A_TEXT = 5
# Texts of a set that are compared with each other.
COMPARED_BY_BLEU = 60
COMPARED_BY_VENDI = 200


def entropy(text: str) -> float:
    """Shannon entropy of the words among a text's first ``MATCHED_WORDS``, in nats; NaN for a shorter text."""
    words = text.split()[:MATCHED_WORDS]
    if len(words) < MATCHED_WORDS:
        return math.nan
    return -sum(n / MATCHED_WORDS * math.log(n / MATCHED_WORDS) for n in Counter(words).values())


def distinct(texts: Sequence[str], n: int, words: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016) among the first ``words`` words of some texts.

    The share falls as there is more text, so only figures for equally many words compare. An n-gram lies in one text.
    NaN where there are fewer words.
    """
    grams: list[tuple[str, ...]] = []
    for text in texts:
        said = text.split()[:words]
        words -= len(said)
        grams += zip(*(said[start:] for start in range(n)), strict=False)
    return len(set(grams)) / len(grams) if grams and not words else math.nan


def self_bleu(texts: Sequence[str]) -> float:
    """Mean sentence BLEU of each text against all others (Zhu et al. 2018, Texygen), 0 to 100: 100 where all are alike.

    Of the first ``COMPARED_BY_BLEU`` texts that are not empty; NaN for fewer than two.
    """
    texts = [text for text in texts if text.strip()][:COMPARED_BY_BLEU]
    if len(texts) < 2:
        return math.nan
    bleu = sacrebleu.BLEU(effective_order=True, tokenize="none")
    return float(
        np.mean([bleu.sentence_score(text, [*texts[:n], *texts[n + 1 :]]).score for n, text in enumerate(texts)])
    )


def vendi(texts: Sequence[str]) -> float:
    """Vendi score (Friedman and Dieng 2023, eq. 2): how many entirely different texts there are, from 1 to their number.

    exp of the entropy of the eigenvalues of K / n, where K holds cosines between counts of words and pairs of words; of
    the first ``COMPARED_BY_VENDI`` texts that are not empty. NaN for none.
    """
    grams = [Counter([*said, *itertools.pairwise(said)]) for said in map(str.split, texts) if said]
    grams = grams[:COMPARED_BY_VENDI]
    if not grams:
        return math.nan
    column = {gram: number for number, gram in enumerate(dict.fromkeys(gram for one in grams for gram in one))}
    counts = np.zeros((len(grams), len(column)))
    for row, one in enumerate(grams):
        counts[row, [column[gram] for gram in one]] = list(one.values())
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    shares = np.linalg.eigvalsh(counts @ counts.T / len(grams)).clip(min=1e-300)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def of_texts(texts: Sequence[str]) -> dict[str, float]:
    """Figures of some texts together: shares of distinct n-grams among five words a text, self-BLEU, Vendi score, distinct texts."""
    words = WORDS_A_TEXT * len(texts)
    shares = {f"distinct_{n}": distinct(texts, n, words) for n in (1, 2, 4)}
    shares |= {"self_bleu": self_bleu(texts), "vendi": vendi(texts)}
    return shares | {"unique": len(set(texts)) / len(texts) if texts else math.nan}
