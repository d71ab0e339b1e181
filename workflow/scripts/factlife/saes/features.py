"""What each feature is about: best examples, logits, histogram, and a label that says where it should be active."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from factlife.models.anatomy import anatomy, weight
from factlife.saes.activations import read_activations, special_tokens_mask, token_batches
from factlife.saes.dictionary import Dictionary

EXAMPLES, _WINDOW, _BINS, _TOKENS = 8, 12, 20, 10


def describe_features(
    model: Any, tokenizer: Any, sequences: Sequence[Sequence[int]], site: str, dictionaries: list[Dictionary]
) -> pd.DataFrame:
    """Describe every feature of every layer; of activations only those that are not zero are kept.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sequences: token ids of the documents in which examples are looked for.
        site: of the config.
        dictionaries: one a layer.

    Returns:
        One row per layer and feature: ``label`` and its ``detection_score`` (balanced accuracy of the label's rule on
        the other half of the positions), ``activation_frequency`` (share of positions), ``act_max``, ``top_logits`` and
        ``bottom_logits`` (tokens), ``histogram`` and ``bin_edges`` of positive activations, ``examples`` as JSON: the best
        ones, each with ``tokens``, ``acts`` and ``position``.
    """
    text = TokenContexts(tokenizer, sequences)
    found: list[list[sparse.csr_array]] = [[] for _ in dictionaries]
    device = next(model.parameters()).device
    for ids, mask in token_batches(sequences, 8192, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
        for layer, (x, _) in enumerate(read_activations(model, ids, mask, site)):
            found[layer].append(sparse.csr_array(dictionaries[layer].encode(x[keep]).cpu().numpy()))
    tables = []
    for layer, dictionary in enumerate(dictionaries):
        activations = sparse.vstack(found[layer], format="csc")
        found[layer] = []
        top, bottom = top_and_bottom_tokens(model, tokenizer, dictionary)
        rows = [
            _row(_column(activations, feature), text) | {"top_logits": top[feature], "bottom_logits": bottom[feature]}
            for feature in range(dictionary.d_sae)
        ]
        tables.append(pd.DataFrame(rows).assign(layer=layer, feature=range(dictionary.d_sae)))
    frame = pd.concat(tables, ignore_index=True)
    return frame[["layer", "feature", *(column for column in frame.columns if column not in ("layer", "feature"))]]


class TokenContexts:
    """Positions that are not special tokens, in reading order, with their neighbours.

    Attributes:
        words: every token as text, by id.
        before: (positions,), id of the token before each.
        here: (positions,), its own.
        after: (positions,), id of the next token.
    """

    def __init__(self, tokenizer: Any, sequences: Sequence[Sequence[int]]) -> None:
        self.words = {id_: tokenizer.decode([id_]) for ids in sequences for id_ in ids}
        self.sequences = [list(ids) for ids in sequences]
        specials = set(tokenizer.all_special_ids)
        places = [
            (row, i) for row, ids in enumerate(sequences) for i, id_ in enumerate(ids) if i and id_ not in specials
        ]
        self.places = np.array(places).reshape(-1, 2)
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else -1
        self.words.setdefault(end, "")

        def at(offset: int) -> np.ndarray:
            pairs = [(self.sequences[row], i + offset) for row, i in places]
            return np.array([ids[i] if 0 <= i < len(ids) else end for ids, i in pairs], dtype=int)

        self.before, self.here, self.after = at(-1), at(0), at(1)
        self.train = self.places[:, 0] % 2 == 0

    def example(self, position: int, activations: np.ndarray) -> dict[str, Any]:
        """Tokens around a position, with the activations there."""
        row, i = self.places[position]
        first, last = max(0, i - _WINDOW), min(len(self.sequences[row]), i + _WINDOW // 2 + 1)
        near = range(max(0, position - _WINDOW), min(len(self.places), position + _WINDOW))
        acts = {int(self.places[one, 1]): float(activations[one]) for one in near if self.places[one, 0] == row}
        tokens = [self.words[id_] for id_ in self.sequences[row][first:last]]
        return {
            "tokens": tokens,
            "acts": [round(acts.get(j, 0.0), 3) for j in range(first, last)],
            "position": int(i - first),
        }


def _column(activations: sparse.csc_array, number: int) -> np.ndarray:
    column = np.zeros(activations.shape[0], activations.dtype)
    span = slice(activations.indptr[number], activations.indptr[number + 1])
    column[activations.indices[span]] = activations.data[span]
    return column


def _row(activations: np.ndarray, text: TokenContexts) -> dict[str, Any]:
    positive = activations[activations > 0]
    best = np.argsort(-activations, kind="stable")[: 4 * EXAMPLES]
    best = best[activations[best] > 0]
    counts, edges = np.histogram(positive, bins=_BINS, range=(0, positive.max() if len(positive) else 1))
    label, detection = label_feature(activations > 0, best, text)
    return {
        "label": label,
        "detection_score": detection,
        "activation_frequency": len(positive) / max(1, len(activations)),
        "act_max": float(positive.max()) if len(positive) else 0.0,
        "histogram": counts.tolist(),
        "bin_edges": [round(float(edge), 4) for edge in edges],
        "examples": json.dumps([text.example(position, activations) for position in _different(best, text)], ensure_ascii=False),
    }  # fmt: skip


def _different(best: np.ndarray, text: TokenContexts) -> list[int]:
    """The best positions, no two in the same three tokens."""
    chosen: dict[tuple, int] = {}
    for position in best:
        chosen.setdefault((text.before[position], text.here[position], text.after[position]), int(position))
    return list(chosen.values())[:EXAMPLES]


def label_feature(active: np.ndarray, best: np.ndarray, text: TokenContexts) -> tuple[str, float]:
    """The rule that best says where a feature is active, and how well it says so elsewhere.

    A rule is a set of up to three tokens, taken from the best examples, for a position's own token, the one before,
    the next one, or its own and the one before together. Chosen by F1 on documents of even number, scored by balanced
    accuracy on those of odd number.

    Args:
        active: (positions,), where the feature is active.
        best: positions of the best examples.
        text: the positions.
    """
    if not len(best):
        return "never active", 0.5
    rules = {
        'on "{}"': text.here,
        'after "{}"': text.before,
        'before "{}"': text.after,
        '"{}"': text.before * (max(text.words) + 2) + text.here,
    }
    scored = []
    for words, keys in rules.items():
        common = [key for key, _ in Counter(keys[best].tolist()).most_common(3)]
        for size in range(1, len(common) + 1):
            said = np.isin(keys, common[:size])
            scored.append((_f1(said[text.train], active[text.train]), -size, words, common[:size], said))
    _, _, words, common, said = max(scored, key=lambda one: one[:2])
    base = max(text.words) + 2
    shown = [
        text.words[key].strip() if words != '"{}"' else f"{text.words[key // base].strip()} {text.words[key % base].strip()}"
        for key in common
    ]  # fmt: skip
    return words.format('", "'.join(shown)), _balanced(said[~text.train], active[~text.train])


def _f1(said: np.ndarray, true: np.ndarray) -> float:
    return 2 * (said & true).sum() / max(1, said.sum() + true.sum())


def _balanced(said: np.ndarray, true: np.ndarray) -> float:
    rates = [(said == true)[true == label].mean() for label in (True, False) if (true == label).any()]
    return float(np.mean(rates)) if len(rates) == 2 else 0.5


def top_and_bottom_tokens(
    model: Any, tokenizer: Any, dictionary: Dictionary
) -> tuple[list[list[str]], list[list[str]]]:
    """Tokens whose logits each feature raises and lowers most, by itself: its decoder through the final norm's gain."""
    parts = anatomy(model)
    gain = getattr(parts.final_norm, "weight", torch.ones(1, device=dictionary.W_dec.device))
    with torch.no_grad():
        scores = _centred(dictionary.W_dec, parts.final_norm) * gain @ weight(parts.unembedding).T
    top, bottom = scores.topk(_TOKENS).indices.tolist(), scores.topk(_TOKENS, largest=False).indices.tolist()
    words = {id_: tokenizer.decode([id_]) for id_ in {id_ for rows in (top, bottom) for row in rows for id_ in row}}
    return [[words[id_] for id_ in row] for row in top], [[words[id_] for id_ in row] for row in bottom]


def _centred(vectors: Tensor, norm: Any) -> Tensor:
    return vectors - vectors.mean(-1, keepdim=True) if "LayerNorm" in type(norm).__name__ else vectors


def feature_to_neuronpedia(row: pd.Series, index: int, scan: str) -> dict[str, Any]:
    """A feature as Neuronpedia's feature layout has it (Anthropic's format)."""
    examples = [
        {
            "tokens_acts_list": one["acts"],
            "train_token_ind": one["position"],
            "is_repeated_datapoint": False,
            "tokens": one["tokens"],
        }
        for one in json.loads(row["examples"])
    ]
    return {
        "transcoder_id": scan,
        "index": index,
        "label": row["label"],
        "label_detection_score": round(float(row["detection_score"]), 4),
        "examples_quantiles": [{"quantile_name": "Top activations", "examples": examples}],
        "top_logits": list(row["top_logits"]),
        "bottom_logits": list(row["bottom_logits"]),
        "act_min": 0.0,
        "act_max": float(row["act_max"]),
        "quantile_values": [float(edge) for edge in row["bin_edges"]],
        "histogram": [int(count) for count in row["histogram"]],
        "activation_frequency": float(row["activation_frequency"]),
    }
