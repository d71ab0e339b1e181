"""How much sense texts make, from 0 to 3: noise, word salad, mild gibberish, clean. A classifier of our own, or a public one."""

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
# Hash buckets of the tables of what real text holds.
_BUCKETS = 1 << 20
# Real texts: the first half says what real text holds, the rest is corrupted; a third of that is kept for the test.
_FEWEST_TEXTS, _MOST_TEXTS = 12, 3000
# Share of the places in a text at which a mild corruption strikes.
_MILD = (0.1, 0.4)


class Detector:
    """A logistic regression on how much of a text real text holds, too: its words, pairs and triples of words, letters.

    Attributes:
        seen: by kind of n-gram, (buckets,): whether real text holds one of this hash.
        weight: (levels, features); ``bias``: (levels,).
        accuracy: share of the corrupted texts kept for the test whose level is told.
        tested: their number.
    """

    def __init__(
        self, seen: dict[str, np.ndarray], weight: np.ndarray, bias: np.ndarray, accuracy: float, tested: int
    ) -> None:
        self.seen, self.weight, self.bias, self.accuracy, self.tested = seen, weight, bias, accuracy, tested

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """The expected level Σ k p(k) of each text; NaN for one without words."""
        logits = np.array([features(text, self.seen) for text in texts]).reshape(len(texts), -1) @ self.weight.T
        shares = np.exp(logits + self.bias - np.logaddexp.reduce(logits + self.bias, axis=1, keepdims=True))
        there = np.array([bool(text.split()) for text in texts], dtype=bool)
        return np.where(there, shares @ np.arange(len(LEVELS)), np.nan)

    def save(self, path: str | Path) -> None:
        """Write it as safetensors."""
        tensors = {f"seen.{name}": np.packbits(table) for name, table in self.seen.items()}
        # As tensors: the order of metadata changes from file to file.
        tensors |= {"accuracy": np.array([self.accuracy]), "tested": np.array([self.tested])}
        save_file(tensors | {"weight": self.weight, "bias": self.bias}, str(path))


def read(path: str | Path) -> Detector:
    """A detector that ``Detector.save`` wrote."""
    tensors = load_file(str(path))
    tables = {name: table for name, table in tensors.items() if name.startswith("seen.")}
    seen = {name.removeprefix("seen."): np.unpackbits(table).astype(bool) for name, table in tables.items()}
    accuracy, tested = tensors["accuracy"].item(), tensors["tested"].item()
    return Detector(seen, tensors["weight"], tensors["bias"], accuracy, tested)


def train(texts: Sequence[str], seed: int = 0) -> Detector:
    """A detector for text like some real text, from graded corruptions of it.

    Half of the texts say what real text holds. The others are taken at all four levels; two thirds of them train the
    classifier and one third tests it.

    Raises:
        GibberishError: there are too few texts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = random.Random(f"gibberish {seed}")
    texts = [text for text in dict.fromkeys(texts) if text.split()]
    if len(texts) < _FEWEST_TEXTS:
        raise GibberishError(f"{len(texts)} different real texts are too few to train a classifier of gibberish on")
    texts = rng.sample(texts, min(len(texts), _MOST_TEXTS))
    known, graded = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    words = [word for text in known for word in text.split()]
    seen = {name: np.zeros(_BUCKETS, dtype=bool) for name in _KINDS}
    for text in known:
        for name, grams in _grams(text).items():
            seen[name][_hashes(grams)] = True
    kept = len(graded) // 3
    made = [
        [(features(corrupt(text, level, words, rng), seen), level) for text in part for level in range(len(LEVELS))]
        for part in (graded[kept:], graded[:kept])
    ]
    (x, y), (test_x, test_y) = (tuple(map(np.array, zip(*rows, strict=True))) for rows in made)
    scaler = StandardScaler().fit(x)
    fitted = LogisticRegression(C=100, max_iter=2000).fit(scaler.transform(x), y)
    # Standardization goes into the weights: (x − mean) / scale.
    weight = fitted.coef_ / scaler.scale_
    bias = fitted.intercept_ - weight @ scaler.mean_
    right = (test_x @ weight.T + bias).argmax(1) == test_y
    # safetensors writes memory as it lies.
    return Detector(seen, np.ascontiguousarray(weight), bias, float(right.mean()), len(right))


def corrupt(text: str, level: int, words: Sequence[str], rng: random.Random) -> str:
    """A text at a level: as it is; with words swapped, dropped, repeated or foreign; shuffled; with shuffled letters.

    Args:
        text: a real text.
        level: place in ``LEVELS``.
        words: among which foreign ones are drawn.
        rng: of the choices.
    """
    said = text.split()
    match LEVELS[level]:
        case "noise":
            letters = [letter for word in said for letter in word]
            rng.shuffle(letters)
            drawn = iter(letters)
            return " ".join("".join(itertools.islice(drawn, len(word))) for word in said)
        case "word salad":
            return " ".join(rng.sample(said, len(said)))
        case "mild gibberish":
            share, place = rng.uniform(*_MILD), 0
            for _ in range(max(1, round(share * len(said) / 2))):
                place = rng.randrange(len(said))
                match rng.choice(["swap", "drop", "foreign", "repeat"]):
                    case "swap":
                        said[place : place + 2] = reversed(said[place : place + 2])
                    case "drop" if len(said) > 1:
                        del said[place]
                    case "repeat":
                        said[place:place] = said[place : place + rng.randint(1, 4)]
                    case _:
                        said[place] = rng.choice(words)
            return " ".join(said)
    return text


_KINDS = ("letters", "words", "pairs", "triples")


def _grams(text: str) -> dict[str, list[str]]:
    said = text.split()
    padded = f" {' '.join(said)} "
    return {
        "letters": [padded[start : start + 3] for start in range(len(padded) - 2)],
        "words": said,
        "pairs": [" ".join(pair) for pair in itertools.pairwise(["", *said, ""])],
        "triples": [" ".join(said[start : start + 3]) for start in range(len(said) - 2)],
    }


def _hashes(grams: Sequence[str]) -> list[int]:
    return [zlib.crc32(gram.encode()) % _BUCKETS for gram in grams]


def features(text: str, seen: dict[str, np.ndarray]) -> list[float]:
    """Shares of a text's n-grams of each kind that real text holds, and of its pairs of words that are distinct."""
    grams = _grams(text)
    shares = [float(seen[name][_hashes(grams[name])].mean()) if grams[name] else 1.0 for name in _KINDS]
    return [*shares, len(set(grams["pairs"])) / len(grams["pairs"])]


def public(folder: str | Path, device: str = "cpu") -> Callable[[Sequence[str]], np.ndarray]:
    """A classifier of the hub with the four levels as labels, such as madhurjindal/autonlp-Gibberish-Detector-492513457.

    Args:
        folder: where it was downloaded.
        device: where it runs.

    Returns:
        The expected level of each text, as ``Detector.score`` gives it. Labels are told by their names.

    Raises:
        GibberishError: it has other labels.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, **safe).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
    labels = [model.config.id2label[number].lower() for number in range(model.config.num_labels)]
    if sorted(labels) != sorted(LEVELS):
        raise GibberishError(f"the detector's labels are {', '.join(labels)}; they must be {', '.join(LEVELS)}")
    levels = torch.tensor([LEVELS.index(label) for label in labels], dtype=torch.float32, device=device)

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> np.ndarray:
        found = pd.Series(np.nan, index=range(len(texts)))
        kept = [number for number, text in enumerate(texts) if text.split()]
        for start in range(0, len(kept), 32):
            batch = kept[start : start + 32]
            rows = tokenizer(
                [texts[number] for number in batch], padding=True, truncation=True, max_length=512, return_tensors="pt"
            )
            found[batch] = (model(**rows.to(device)).logits.float().softmax(-1) @ levels).cpu().numpy()
        return found.to_numpy()

    return score


class GibberishError(ValueError):
    """A detector that cannot be used; the text says why."""
