"""Gibberish level of texts, from 0 to 3: noise, word salad, mild gibberish, clean. Our own classifier or one from the hub."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

LEVELS = ("noise", "word salad", "mild gibberish", "clean")
# Hash buckets of the tables of n-grams that occur in real text.
_N_BUCKETS = 1 << 20
# Half of the real texts fill the n-gram tables, the others are corrupted; a third of those is the test set.
_MIN_TEXTS, _MAX_TEXTS = 12, 3000
# Range of the fraction of words that a mild corruption changes.
_MILD_FRACTION = (0.1, 0.4)


class GibberishDetector:
    """A logistic regression on the fractions of a text's n-grams that occur in real text.

    Attributes:
        known_ngrams: by kind of n-gram, (buckets,): whether an n-gram with this hash occurs in real text.
        weight: (levels, features).
        bias: (levels,).
        accuracy: accuracy on the corrupted texts of the test set.
        n_test: number of texts in the test set.
    """

    def __init__(
        self, known_ngrams: dict[str, np.ndarray], weight: np.ndarray, bias: np.ndarray, accuracy: float, n_test: int
    ) -> None:
        self.known_ngrams, self.weight, self.bias = known_ngrams, weight, bias
        self.accuracy, self.n_test = accuracy, n_test

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """The expected level Σ k p(k) of each text; NaN for a text without words."""
        features = np.array([text_features(text, self.known_ngrams) for text in texts])
        logits = features.reshape(len(texts), -1) @ self.weight.T
        probs = np.exp(logits + self.bias - np.logaddexp.reduce(logits + self.bias, axis=1, keepdims=True))
        has_words = np.array([bool(text.split()) for text in texts], dtype=bool)
        return np.where(has_words, probs @ np.arange(len(LEVELS)), np.nan)

    def save(self, path: str | Path) -> None:
        """Write the detector as safetensors."""
        tensors = {f"known_ngrams.{name}": np.packbits(table) for name, table in self.known_ngrams.items()}
        # As tensors: the order of metadata changes from file to file.
        tensors |= {"accuracy": np.array([self.accuracy]), "n_test": np.array([self.n_test])}
        save_file(tensors | {"weight": self.weight, "bias": self.bias}, str(path))


def read_detector(path: str | Path) -> GibberishDetector:
    """Read a detector written by ``GibberishDetector.save``."""
    tensors = load_file(str(path))
    tables = {name: table for name, table in tensors.items() if name.startswith("known_ngrams.")}
    known_ngrams = {
        name.removeprefix("known_ngrams."): np.unpackbits(table).astype(bool) for name, table in tables.items()
    }
    accuracy, n_test = tensors["accuracy"].item(), tensors["n_test"].item()
    return GibberishDetector(known_ngrams, tensors["weight"], tensors["bias"], accuracy, n_test)


def train_detector(texts: Sequence[str], seed: int = 0) -> GibberishDetector:
    """Train a detector on graded corruptions of real text.

    Half of the texts define which n-grams occur in real text. The others are corrupted to all four levels; two thirds of
    them train the classifier and one third tests it.

    Raises:
        GibberishError: there are too few texts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = random.Random(f"gibberish {seed}")
    texts = [text for text in dict.fromkeys(texts) if text.split()]
    if len(texts) < _MIN_TEXTS:
        raise GibberishError(f"{len(texts)} different real texts are too few to train a gibberish classifier on")
    texts = rng.sample(texts, min(len(texts), _MAX_TEXTS))
    reference_texts, graded_texts = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    words = [word for text in reference_texts for word in text.split()]
    known_ngrams = {name: np.zeros(_N_BUCKETS, dtype=bool) for name in _NGRAM_KINDS}
    for text in reference_texts:
        for name, ngrams in _ngrams(text).items():
            known_ngrams[name][_hashes(ngrams)] = True
    n_test_texts = len(graded_texts) // 3
    parts = [
        [
            (text_features(corrupt_text(text, level, words, rng), known_ngrams), level)
            for text in part
            for level in range(len(LEVELS))
        ]
        for part in (graded_texts[n_test_texts:], graded_texts[:n_test_texts])
    ]
    (x, y), (test_x, test_y) = (tuple(map(np.array, zip(*rows, strict=True))) for rows in parts)
    scaler = StandardScaler().fit(x)
    regression = LogisticRegression(C=100, max_iter=2000).fit(scaler.transform(x), y)
    # Fold the standardization (x − mean) / scale into the weights.
    weight = regression.coef_ / scaler.scale_
    bias = regression.intercept_ - weight @ scaler.mean_
    is_correct = (test_x @ weight.T + bias).argmax(1) == test_y
    # safetensors ignores strides.
    weight = np.ascontiguousarray(weight)
    return GibberishDetector(known_ngrams, weight, bias, float(is_correct.mean()), len(is_correct))


def corrupt_text(text: str, level: int, words: Sequence[str], rng: random.Random) -> str:
    """Corrupt a text to a level.

    The levels are: shuffled letters; shuffled words; words swapped, dropped, repeated or replaced; the text itself.

    Args:
        text: a real text.
        level: index in ``LEVELS``.
        words: words to draw replacements from.
        rng: random number generator of all choices.
    """
    text_words = text.split()
    match LEVELS[level]:
        case "noise":
            letters = [letter for word in text_words for letter in word]
            rng.shuffle(letters)
            remaining = iter(letters)
            return " ".join("".join(itertools.islice(remaining, len(word))) for word in text_words)
        case "word salad":
            return " ".join(rng.sample(text_words, len(text_words)))
        case "mild gibberish":
            fraction = rng.uniform(*_MILD_FRACTION)
            for _ in range(max(1, round(fraction * len(text_words) / 2))):
                i = rng.randrange(len(text_words))
                match rng.choice(["swap", "drop", "replace", "repeat"]):
                    case "swap":
                        text_words[i : i + 2] = reversed(text_words[i : i + 2])
                    case "drop" if len(text_words) > 1:
                        del text_words[i]
                    case "repeat":
                        text_words[i:i] = text_words[i : i + rng.randint(1, 4)]
                    case _:
                        text_words[i] = rng.choice(words)
            return " ".join(text_words)
    return text


_NGRAM_KINDS = ("letters", "words", "pairs", "triples")


def _ngrams(text: str) -> dict[str, list[str]]:
    words = text.split()
    padded = f" {' '.join(words)} "
    return {
        "letters": [padded[start : start + 3] for start in range(len(padded) - 2)],
        "words": words,
        "pairs": [" ".join(pair) for pair in itertools.pairwise(["", *words, ""])],
        "triples": [" ".join(words[start : start + 3]) for start in range(len(words) - 2)],
    }


def _hashes(ngrams: Sequence[str]) -> list[int]:
    return [zlib.crc32(ngram.encode()) % _N_BUCKETS for ngram in ngrams]


def text_features(text: str, known_ngrams: dict[str, np.ndarray]) -> list[float]:
    """Fraction of a text's n-grams of each kind that occur in real text, and fraction of its word pairs that are distinct."""
    ngrams = _ngrams(text)
    fractions = [
        float(known_ngrams[name][_hashes(ngrams[name])].mean()) if ngrams[name] else 1.0 for name in _NGRAM_KINDS
    ]
    return [*fractions, len(set(ngrams["pairs"])) / len(ngrams["pairs"])]


def load_hub_detector(folder: str | Path, device: str = "cpu") -> Callable[[Sequence[str]], np.ndarray]:
    """Load a classifier from the hub with the four levels as labels, such as madhurjindal/autonlp-Gibberish-Detector-492513457.

    Args:
        folder: the downloaded repository.
        device: device to run on.

    Returns:
        A function that returns the expected level of each text, as ``GibberishDetector.score`` does. It matches labels by
        name.

    Raises:
        GibberishError: it has other labels.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, **options)
    model = model.to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    labels = [model.config.id2label[i].lower() for i in range(model.config.num_labels)]
    if sorted(labels) != sorted(LEVELS):
        raise GibberishError(f"the detector's labels are {', '.join(labels)}; they must be {', '.join(LEVELS)}")
    levels = torch.tensor([LEVELS.index(label) for label in labels], dtype=torch.float32, device=device)

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> np.ndarray:
        scores = pd.Series(np.nan, index=range(len(texts)))
        indices = [i for i, text in enumerate(texts) if text.split()]
        for start in range(0, len(indices), 32):
            batch = indices[start : start + 32]
            inputs = tokenizer(
                [texts[i] for i in batch], padding=True, truncation=True, max_length=512, return_tensors="pt"
            )
            scores[batch] = (model(**inputs.to(device)).logits.float().softmax(-1) @ levels).cpu().numpy()
        return scores.to_numpy()

    return score


class GibberishError(ValueError):
    """A gibberish detector that cannot be used; the message says why."""
