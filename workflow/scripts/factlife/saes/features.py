"""Descriptions of features: most activating examples, logits, a histogram, and a label that predicts activation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from factlife.models.anatomy import get_anatomy, weight_matrix
from factlife.saes.activations import read_activations, special_tokens_mask, token_batches
from factlife.saes.dictionary import Dictionary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

N_EXAMPLES, _WINDOW, _N_BINS, _N_TOKENS = 8, 12, 20, 10


def describe_features(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    site: str,
    dictionaries: list[Dictionary],
) -> pd.DataFrame:
    """Describe every feature of every layer. Activations are stored as sparse matrices.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sequences: token ids of the documents to search for examples.
        site: site as in the config.
        dictionaries: one per layer.

    Returns:
        One row per layer and feature: ``label`` and its ``detection_score`` (balanced accuracy of the label's rule on
        the other half of the documents), ``activation_frequency`` (fraction of positions), ``act_max``, ``top_logits``
        and ``bottom_logits`` (tokens), ``histogram`` and ``bin_edges`` of positive activations, ``examples`` as JSON:
        the most activating ones, each with ``tokens``, ``acts`` and the ``position`` of its strongest activation.
    """
    contexts = TokenContexts(tokenizer, sequences)
    batches: list[list[sparse.csr_array]] = [[] for _ in dictionaries]
    device = next(model.parameters()).device
    for ids, mask in token_batches(sequences, 8192, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
        for layer, (x, _) in enumerate(read_activations(model, ids, mask, site)):
            batches[layer].append(sparse.csr_array(dictionaries[layer].encode(x[keep]).cpu().numpy()))
    tables = []
    for layer, dictionary in enumerate(dictionaries):
        activations = sparse.vstack(batches[layer], format="csc")
        batches[layer] = []
        top, bottom = top_and_bottom_tokens(model, tokenizer, dictionary)
        rows = [
            _description(_column(activations, feature), contexts)
            | {"top_logits": top[feature], "bottom_logits": bottom[feature]}
            for feature in range(dictionary.d_sae)
        ]
        tables.append(pd.DataFrame(rows).assign(layer=layer, feature=range(dictionary.d_sae)))
    frame = pd.concat(tables, ignore_index=True)
    return frame[["layer", "feature", *(column for column in frame.columns if column not in ("layer", "feature"))]]


class TokenContexts:
    """All positions except special tokens, in reading order, with the neighbouring tokens.

    Attributes:
        token_strings: text of every token, by id.
        previous: (positions,), id of the token before each position.
        current: (positions,), id of the token at each position.
        next: (positions,), id of the token after each position.
        train: (positions,), mask of the documents from which labels are chosen; the others score them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]]) -> None:
        self.token_strings = {id_: tokenizer.decode([id_]) for ids in sequences for id_ in ids}
        self.sequences = [list(ids) for ids in sequences]
        special_ids = set(tokenizer.all_special_ids)
        positions = [
            (row, i) for row, ids in enumerate(sequences) for i, id_ in enumerate(ids) if i and id_ not in special_ids
        ]
        self.positions = np.array(positions).reshape(-1, 2)
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else -1
        self.token_strings.setdefault(end, "")

        def shifted(offset: int) -> np.ndarray:
            pairs = [(self.sequences[row], i + offset) for row, i in positions]
            return np.array([ids[i] if 0 <= i < len(ids) else end for ids, i in pairs], dtype=int)

        self.previous, self.current, self.next = shifted(-1), shifted(0), shifted(1)
        self.train = self.positions[:, 0] % 2 == 0

    def example(self, position: int, activations: np.ndarray) -> dict[str, Any]:
        """Tokens around a position, and their activations."""
        row, i = self.positions[position]
        first, last = max(0, i - _WINDOW), min(len(self.sequences[row]), i + _WINDOW // 2 + 1)
        nearby = range(max(0, position - _WINDOW), min(len(self.positions), position + _WINDOW))
        acts = {int(self.positions[j, 1]): float(activations[j]) for j in nearby if self.positions[j, 0] == row}
        tokens = [self.token_strings[id_] for id_ in self.sequences[row][first:last]]
        return {
            "tokens": tokens,
            "acts": [round(acts.get(j, 0.0), 3) for j in range(first, last)],
            "position": int(i - first),
        }


def _column(activations: sparse.csc_array, feature: int) -> np.ndarray:
    column = np.zeros(activations.shape[0], activations.dtype)
    span = slice(activations.indptr[feature], activations.indptr[feature + 1])
    column[activations.indices[span]] = activations.data[span]
    return column


def _description(activations: np.ndarray, contexts: TokenContexts) -> dict[str, Any]:
    positive = activations[activations > 0]
    best = np.argsort(-activations, kind="stable")[: 4 * N_EXAMPLES]
    best = best[activations[best] > 0]
    counts, edges = np.histogram(positive, bins=_N_BINS, range=(0, positive.max() if len(positive) else 1))
    label, detection_score = label_feature(activations > 0, best, contexts)
    examples = [contexts.example(position, activations) for position in _distinct(best, contexts)]
    return {
        "label": label,
        "detection_score": detection_score,
        "activation_frequency": len(positive) / max(1, len(activations)),
        "act_max": float(positive.max()) if len(positive) else 0.0,
        "histogram": counts.tolist(),
        "bin_edges": [round(float(edge), 4) for edge in edges],
        "examples": json.dumps(examples, ensure_ascii=False),
    }


def _distinct(best: np.ndarray, contexts: TokenContexts) -> list[int]:
    """The best positions, without those that repeat the three tokens around a better one."""
    positions: dict[tuple, int] = {}
    for i in best:
        positions.setdefault((contexts.previous[i], contexts.current[i], contexts.next[i]), int(i))
    return list(positions.values())[:N_EXAMPLES]


def label_feature(active: np.ndarray, best: np.ndarray, contexts: TokenContexts) -> tuple[str, float]:
    """Choose the rule that best predicts where a feature is active, and score it on other documents.

    A rule is a set of up to three tokens from the most activating examples, for the token at a position, the one before,
    the one after, or the one before together with the one at the position. Rules are chosen by F1 on documents with
    even index and scored by balanced accuracy on those with odd index.

    Args:
        active: (positions,), where the feature is active.
        best: positions of the most activating examples.
        contexts: the positions.
    """
    if not len(best):
        return "never active", 0.5
    base = max(contexts.token_strings) + 2
    kinds = {
        'on "{}"': contexts.current,
        'after "{}"': contexts.previous,
        'before "{}"': contexts.next,
        '"{}"': contexts.previous * base + contexts.current,
    }
    rules = []
    for pattern, keys in kinds.items():
        common = [key for key, _ in Counter(keys[best].tolist()).most_common(3)]
        for size in range(1, len(common) + 1):
            predicted = np.isin(keys, common[:size])
            f1 = _f1(predicted[contexts.train], active[contexts.train])
            rules.append((f1, -size, pattern, common[:size], predicted))
    _, _, pattern, common, predicted = max(rules, key=lambda rule: rule[:2])
    strings = contexts.token_strings
    texts = [
        strings[key].strip() if pattern != '"{}"' else f"{strings[key // base].strip()} {strings[key % base].strip()}"
        for key in common
    ]
    detection_score = _balanced_accuracy(predicted[~contexts.train], active[~contexts.train])
    return pattern.format('", "'.join(texts)), detection_score


def _f1(predicted: np.ndarray, actual: np.ndarray) -> float:
    return 2 * (predicted & actual).sum() / max(1, predicted.sum() + actual.sum())


def _balanced_accuracy(predicted: np.ndarray, actual: np.ndarray) -> float:
    recalls = [(predicted == actual)[actual == label].mean() for label in (True, False) if (actual == label).any()]
    return float(np.mean(recalls)) if len(recalls) == 2 else 0.5


def top_and_bottom_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dictionary: Dictionary
) -> tuple[list[list[str]], list[list[str]]]:
    """Tokens whose logits each feature raises and lowers most directly: its decoder row through the final norm's gain."""
    parts = get_anatomy(model)
    gain = getattr(parts.final_norm, "weight", torch.ones(1, device=dictionary.W_dec.device))
    with torch.no_grad():
        logits = _centred(dictionary.W_dec, parts.final_norm) * gain @ weight_matrix(parts.unembedding).T
    top, bottom = logits.topk(_N_TOKENS).indices.tolist(), logits.topk(_N_TOKENS, largest=False).indices.tolist()
    strings = {id_: tokenizer.decode([id_]) for id_ in {id_ for rows in (top, bottom) for row in rows for id_ in row}}
    return [[strings[id_] for id_ in row] for row in top], [[strings[id_] for id_ in row] for row in bottom]


def _centred(vectors: Tensor, norm: Any) -> Tensor:
    return vectors - vectors.mean(-1, keepdim=True) if "LayerNorm" in type(norm).__name__ else vectors


def feature_to_neuronpedia(row: pd.Series, index: int, scan: str) -> dict[str, Any]:
    """A feature in Neuronpedia's JSON format (Anthropic's layout)."""
    examples = [
        {
            "tokens_acts_list": example["acts"],
            "train_token_ind": example["position"],
            "is_repeated_datapoint": False,
            "tokens": example["tokens"],
        }
        for example in json.loads(row["examples"])
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
