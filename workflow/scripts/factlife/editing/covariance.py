"""Second moments of what down-projections read, of all blocks in one pass over a corpus."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from factlife.editing.requests import EditError
from factlife.models.anatomy import capture, get_anatomy, stop_after

_BATCH_TOKENS = 8192


def compute_covariance(
    model: Any,
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
        sequences: token ids of documents, read in random order until there are enough; longer ones are cut.
        tokens_per_key_dim: tokens to read, as a multiple of the keys' width; all where there are fewer.
        pad_token_id: a token id for padding.
        layers: blocks that are measured, negative ones count from the end; later ones need not run. All where empty.
        max_length: longest sequence.
        seed: of the order.

    Returns:
        C of each block, float64, (d_mlp, d_mlp), and its convergence: at each doubling of tokens since a sixteenth,
        the largest relative change of any block's C in the Frobenius norm.

    Raises:
        EditError: there are fewer tokens than a key has entries, keys are not finite, or there is no such block.
    """
    blocks = dict(enumerate(get_anatomy(model).blocks))
    if layers:
        if missing := [layer for layer in layers if not -len(blocks) <= layer < len(blocks)]:
            raise EditError(
                f"layer {missing[0]} does not exist: the model has blocks 0 to {len(blocks) - 1}; change `layers`"
            )
        blocks = {layer: blocks[layer] for layer in sorted({layer % len(blocks) for layer in layers})}
    read, last = {layer: block.mlp_out for layer, block in blocks.items()}, blocks[max(blocks)].mlp_out
    width, device = get_anatomy(model).d_mlp, next(model.parameters()).device
    tokens = tokens_per_key_dim * width
    sums = {layer: torch.zeros(width, width, dtype=torch.float64, device=device) for layer in blocks}
    marks, count, before, log = [tokens // 2**halving for halving in (4, 3, 2, 1)], 0, None, []
    for ids, mask in _batches(sequences, tokens, pad_token_id, max_length, seed):
        with torch.inference_mode(), capture(read, inputs=True) as keys, stop_after(last):
            model.base_model(ids.to(device), attention_mask=mask.to(device), use_cache=False)
        for layer, found in keys.items():
            # In single precision over one batch, in double over the batches.
            flat = found[mask.to(device).bool()]
            sums[layer] += (flat.T @ flat).double()
        count += int(mask.sum())
        if (marks and count >= marks[0]) or count >= tokens:
            marks = [mark for mark in marks if mark > count]
            now = {layer: moment / count for layer, moment in sums.items()}
            if before is not None:
                change = max(float((now[k] - before[k]).norm() / now[k].norm()) for k in now)
                log.append({"tokens": count, "change": change})
                logging.info("after %d tokens: second moments changed by %.2g", count, change)
            before = now
    if count < width:
        raise EditError(f"{count} tokens cannot span keys of {width} entries; read a larger corpus")
    moments = {layer: moment / count for layer, moment in sums.items()}
    if not all(torch.isfinite(moment).all() for moment in moments.values()):
        raise EditError("keys are not finite on this corpus; check the model")
    return moments, log


def select_documents(tokens: pd.DataFrame, left_out: set[str]) -> list[list[int]]:
    """Token ids of the documents that mention none of some entities."""
    return tokens["input_ids"][tokens["entity_ids"].map(left_out.isdisjoint)].tolist()


def _batches(
    sequences: Sequence[Sequence[int]], tokens: int, fill: int, max_length: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    order = list(range(len(sequences)))
    random.Random(f"moments {seed}").shuffle(order)
    taken, total = [], 0
    for number in order:
        taken.append(torch.tensor(list(sequences[number][:max_length])))
        total += len(taken[-1])
        if total >= tokens:
            break
    # Stretches whose sums can be compared: each is sorted by length, and all together are in random order.
    stretch = max(1, len(taken) // 32)
    for start in range(0, len(taken), stretch):
        batch: list[Tensor] = []
        for ids in sorted(taken[start : start + stretch], key=len):
            if batch and (len(batch) + 1) * len(ids) > _BATCH_TOKENS:
                yield _pad(batch, fill)
                batch = []
            batch.append(ids)
        yield _pad(batch, fill)


def _pad(batch: list[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=fill)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor([len(one) for one in batch])[:, None]).long()


def save_covariance(moments: Mapping[int, Tensor], path: str | Path, **about: Any) -> None:
    """Write second moments, with what they were measured on."""
    tensors = {f"layer-{layer}": moment.cpu().contiguous() for layer, moment in moments.items()}
    save_file(tensors, path, {"about": json.dumps(about, sort_keys=True)})


def load_covariance(path: str | Path, *, model: str | None = None) -> dict[int, Tensor]:
    """Read second moments.

    Args:
        path: what ``save`` wrote.
        model: digest of the weights to which they must belong.

    Raises:
        EditError: they belong to another model.
    """
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        if model is not None and about["model"] != model:
            raise EditError(
                f"{path} was measured on other weights ({about['model'][:8]}… there, {model[:8]}… here); delete it and run again"
            )
        return {int(name.removeprefix("layer-")): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
