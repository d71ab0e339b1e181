"""Key covariance of all blocks, computed in one pass over a corpus."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from factlife.editing.requests import EditError
from factlife.models.anatomy import capture, get_anatomy, stop_after

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH_TOKENS = 8192


def compute_covariance(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    *,
    tokens_per_key_dim: int,
    pad_token_id: int,
    layers: Sequence[int] = (),
    max_length: int = 512,
    seed: int = 0,
) -> tuple[dict[int, Tensor], list[dict[str, float]]]:
    """C = mean of k kᵀ over the tokens of a corpus, uncentred (ROME, Meng et al. 2022, eq. 2).

    Args:
        model: a causal language model of a known anatomy.
        sequences: token ids of documents, read in random order until there are enough tokens; longer ones are truncated.
        tokens_per_key_dim: number of tokens, as a multiple of the key dimension; a smaller corpus is read completely.
        pad_token_id: a token id for padding.
        layers: blocks to measure; negative numbers count from the end, and later blocks do not run. Empty for all.
        max_length: maximum length of a sequence.
        seed: of the order.

    Returns:
        C of each block, float64, (d_mlp, d_mlp), and its convergence: at each doubling of the number of tokens, from a
        sixteenth of them on, the largest relative change of any block's C in the Frobenius norm.

    Raises:
        EditError: there are fewer tokens than key dimensions, keys are not finite, or there is no such block.
    """
    blocks = dict(enumerate(get_anatomy(model).blocks))
    if layers:
        if missing := [layer for layer in layers if not -len(blocks) <= layer < len(blocks)]:
            raise EditError(
                f"layer {missing[0]} does not exist: the model has blocks 0 to {len(blocks) - 1}; change `layers`"
            )
        blocks = {layer: blocks[layer] for layer in sorted({layer % len(blocks) for layer in layers})}
    modules, last = {layer: block.mlp_out for layer, block in blocks.items()}, blocks[max(blocks)].mlp_out
    d_key, device = get_anatomy(model).d_mlp, next(model.parameters()).device
    n_tokens = tokens_per_key_dim * d_key
    sums = {layer: torch.zeros(d_key, d_key, dtype=torch.float64, device=device) for layer in blocks}
    checkpoints, count, previous, log = [n_tokens // 2**halving for halving in (4, 3, 2, 1)], 0, None, []
    for ids, mask in _batches(sequences, n_tokens, pad_token_id, max_length, seed):
        with torch.inference_mode(), capture(modules, inputs=True) as hidden, stop_after(last):
            model.base_model(ids.to(device), attention_mask=mask.to(device), use_cache=False)
        for layer, inputs in hidden.items():
            # Single precision within a batch, double precision across batches.
            keys = inputs[mask.to(device).bool()]
            sums[layer] += (keys.T @ keys).double()
        count += int(mask.sum())
        if (checkpoints and count >= checkpoints[0]) or count >= n_tokens:
            checkpoints = [checkpoint for checkpoint in checkpoints if checkpoint > count]
            current = {layer: total / count for layer, total in sums.items()}
            if previous is not None:
                change = max(float((current[k] - previous[k]).norm() / current[k].norm()) for k in current)
                log.append({"tokens": count, "change": change})
                logging.info("after %d tokens: key covariance changed by %.2g", count, change)
            previous = current
    if count < d_key:
        raise EditError(f"{count} tokens cannot span keys of {d_key} dimensions; read a larger corpus")
    covariance = {layer: total / count for layer, total in sums.items()}
    if not all(torch.isfinite(matrix).all() for matrix in covariance.values()):
        raise EditError("keys are not finite on this corpus; check the model")
    return covariance, log


def select_documents(tokens: pd.DataFrame, excluded: set[str]) -> list[list[int]]:
    """Token ids of the documents that mention none of the excluded entities."""
    return tokens["input_ids"][tokens["entity_ids"].map(excluded.isdisjoint)].tolist()


def _batches(
    sequences: Sequence[Sequence[int]], n_tokens: int, pad_token_id: int, max_length: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    order = list(range(len(sequences)))
    # The seed string keeps an earlier name of the key covariance, so that the order of documents does not change.
    random.Random(f"moments {seed}").shuffle(order)
    selected, total = [], 0
    for i in order:
        selected.append(torch.tensor(list(sequences[i][:max_length])))
        total += len(selected[-1])
        if total >= n_tokens:
            break
    # Each chunk is sorted by length, but the chunks are in random order, so that partial sums are comparable.
    chunk_size = max(1, len(selected) // 32)
    for start in range(0, len(selected), chunk_size):
        batch: list[Tensor] = []
        for ids in sorted(selected[start : start + chunk_size], key=len):
            if batch and (len(batch) + 1) * len(ids) > _BATCH_TOKENS:
                yield _pad(batch, pad_token_id)
                batch = []
            batch.append(ids)
        yield _pad(batch, pad_token_id)


def _pad(batch: list[Tensor], pad_token_id: int) -> tuple[Tensor, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=pad_token_id)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in batch])[:, None]).long()


def save_covariance(covariance: Mapping[int, Tensor], path: str | Path, **about: Any) -> None:
    """Write the key covariance of some blocks, with facts about its computation."""
    tensors = {f"layer-{layer}": matrix.cpu().contiguous() for layer, matrix in covariance.items()}
    save_file(tensors, path, {"about": json.dumps(about, sort_keys=True)})


def load_covariance(path: str | Path, *, model: str | None = None) -> dict[int, Tensor]:
    """Read key covariance.

    Args:
        path: written by ``save_covariance``.
        model: digest of the weights for which it must have been computed.

    Raises:
        EditError: it was computed for another model.
    """
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        if model is not None and about["model"] != model:
            raise EditError(
                f"{path} was computed on other weights ({about['model'][:8]}… there, {model[:8]}… here); "
                "delete it and run again"
            )
        return {int(name.removeprefix("layer-")): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
