"""Diversity of texts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import sacrebleu

# Words per text that the entropy counts, so that it does not grow with the length of a text.
ENTROPY_WORDS = 16
# Words that distinct n-grams count, times the number of texts.
DISTINCT_WORDS_PER_TEXT = 5
# Number of texts to compare with each other.
N_BLEU_TEXTS = 60
N_VENDI_TEXTS = 200


def word_entropy(text: str) -> float:
    """Shannon entropy of a text's first ``ENTROPY_WORDS`` words, in nats; NaN for a shorter text."""
    words = text.split()[:ENTROPY_WORDS]
    if len(words) < ENTROPY_WORDS:
        return math.nan
    return -sum(n / ENTROPY_WORDS * math.log(n / ENTROPY_WORDS) for n in Counter(words).values())


def distinct_ngrams(texts: Sequence[str], n: int, n_words: int) -> float:
    """Distinct n-grams divided by all n-grams (Li et al. 2016) in the first ``n_words`` words of some texts.

    The fraction falls with the amount of text, so compare it only for the same number of words. No n-gram crosses the end
    of a text. NaN if there are fewer words.
    """
    ngrams: list[tuple[str, ...]] = []
    for text in texts:
        words = text.split()[:n_words]
        n_words -= len(words)
        ngrams += zip(*(words[start:] for start in range(n)), strict=False)
    return len(set(ngrams)) / len(ngrams) if ngrams and not n_words else math.nan


def self_bleu(texts: Sequence[str]) -> float:
    """Mean sentence BLEU of each text against all others (Zhu et al. 2018, Texygen), 0 to 100: 100 if all are the same.

    Uses the first ``N_BLEU_TEXTS`` texts that are not empty; NaN for fewer than two.
    """
    texts = [text for text in texts if text.strip()][:N_BLEU_TEXTS]
    if len(texts) < 2:
        return math.nan
    bleu = sacrebleu.BLEU(effective_order=True, tokenize="none")
    return float(
        np.mean([bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)])
    )


def vendi_score(texts: Sequence[str]) -> float:
    """Vendi score (Friedman and Dieng 2023, eq. 2): the effective number of different texts, from 1 to their number.

    exp of the entropy of the eigenvalues of K / n, where K holds the cosine similarities between counts of words and word
    pairs. Uses the first ``N_VENDI_TEXTS`` texts that are not empty; NaN for none.
    """
    counters = [Counter([*words, *itertools.pairwise(words)]) for words in map(str.split, texts) if words]
    counters = counters[:N_VENDI_TEXTS]
    if not counters:
        return math.nan
    columns = {ngram: i for i, ngram in enumerate(dict.fromkeys(ngram for counter in counters for ngram in counter))}
    counts = np.zeros((len(counters), len(columns)))
    for row, counter in enumerate(counters):
        counts[row, [columns[ngram] for ngram in counter]] = list(counter.values())
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(counts @ counts.T / len(counters)).clip(min=1e-300)
    return float(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()))


def diversity_metrics(texts: Sequence[str]) -> dict[str, float]:
    """Distinct n-grams, self-BLEU, Vendi score and the fraction of unique texts."""
    n_words = DISTINCT_WORDS_PER_TEXT * len(texts)
    metrics = {f"distinct_{n}": distinct_ngrams(texts, n, n_words) for n in (1, 2, 4)}
    metrics |= {"self_bleu": self_bleu(texts), "vendi": vendi_score(texts)}
    return metrics | {"unique_fraction": len(set(texts)) / len(texts) if texts else math.nan}
