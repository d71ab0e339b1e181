"""How varied texts are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

# Words over which entropy is taken, so that it does not grow with the length of a text.
MATCHED_WORDS = 16
# Words, for each text of a set, over which distinct n-grams are counted.
WORDS_A_TEXT = 5


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


def of_texts(texts: Sequence[str]) -> dict[str, float]:
    """Figures of some texts together: shares of distinct n-grams among five words a text, and of distinct texts."""
    words = WORDS_A_TEXT * len(texts)
    shares = {f"distinct_{n}": distinct(texts, n, words) for n in (1, 2, 4)}
    return shares | {"unique": len(set(texts)) / len(texts) if texts else math.nan}
