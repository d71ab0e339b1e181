"""What dictionaries read and write at each layer, streamed: never more than a buffer of it in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from factlife.models.anatomy import Anatomy, anatomy, capture

ActivationPair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DictionarySite:
    """Where a dictionary of one layer sits.

    Attributes:
        reads: what it reads goes into, or comes out of, this module.
        input: it reads what goes into ``reads``.
        writes: what it reconstructs comes out of this module.
    """

    reads: nn.Module
    input: bool
    writes: nn.Module


def dictionary_sites(parts: Anatomy, site: str) -> list[DictionarySite]:
    """The place of each layer for a site of the config."""
    if site == "transcoder":
        return [DictionarySite(block.mlp, True, block.mlp_post_norm or block.mlp) for block in parts.blocks]
    writes = {
        "residual": [block.module for block in parts.blocks],
        "attention": [block.attention_post_norm or block.attention for block in parts.blocks],
        "mlp": [block.mlp_post_norm or block.mlp for block in parts.blocks],
    }[site]
    return [DictionarySite(module, False, module) for module in writes]


def read_activations(model: Any, ids: Tensor, mask: Tensor, site: str) -> list[ActivationPair]:
    """What the dictionary of each layer reads and should write, each (batch, position, d), at every position."""
    where = dictionary_sites(anatomy(model), site)
    inputs = {layer: place.reads for layer, place in enumerate(where) if place.input}
    outputs = {layer: place.writes for layer, place in enumerate(where)}
    with torch.no_grad(), capture(inputs, inputs=True) as taken, capture(outputs) as written:
        model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return [(taken.get(layer, written[layer]), written[layer]) for layer in range(len(where))]


def token_batches(sequences: Sequence[Sequence[int]], tokens: int, pad: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and mask, both (batch, position), of sequences in their order; no more tokens than asked, padding included."""
    start = 0
    while start < len(sequences):
        length, end = len(sequences[start]), start + 1
        while end < len(sequences) and (end + 1 - start) * max(length, len(sequences[end])) <= tokens:
            length, end = max(length, len(sequences[end])), end + 1
        rows = [torch.as_tensor(ids, dtype=torch.long) for ids in sequences[start:end]]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        yield ids, mask.long()
        start = end


def special_tokens_mask(tokenizer: Any, ids: Tensor) -> Tensor:
    """Where no feature is asked for: special tokens, and first positions, (…, position) as ``ids``.

    Where a tokenizer puts no beginning of a sequence, models treat its first token as one: all attention rests there,
    and the residual stream is hundreds of times as long as elsewhere.
    """
    found = torch.isin(ids, torch.tensor(sorted(tokenizer.all_special_ids), device=ids.device))
    found[..., 0] = True
    return found


def stream_activations(
    model: Any,
    tokenizer: Any,
    sequences: Sequence[Sequence[int]],
    site: str,
    *,
    batch_size_tokens: int,
    buffer_batches: int,
    activation_reuse: int,
    generator: torch.Generator,
) -> Iterator[list[ActivationPair]]:
    """Shuffled batches of activations for every layer, without end: sequences are read again in another order.

    Args:
        model: whose activations.
        tokenizer: its special tokens are left out.
        sequences: token ids of documents.
        site: of the config.
        batch_size_tokens: positions in a batch.
        buffer_batches: batches that are shuffled together, all that is ever in memory.
        activation_reuse: times that each activation is used before the next buffer is filled.
        generator: of the order.

    Yields:
        For each layer what its dictionary reads and should write, (batch_size_tokens, d_in) and (batch_size_tokens, d_out); the
        positions are the same at every layer.
    """
    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id or 0
    held: list[list[ActivationPair]] = []
    count = 0
    while True:
        order = torch.randperm(len(sequences), generator=generator).tolist()
        # Similar lengths meet, so that little is padding; a chunk is a random part of the text.
        for chunk in torch.tensor(order).split(256):
            near = sorted((sequences[number] for number in chunk.tolist()), key=len)
            for ids, mask in token_batches(near, 8192, pad):
                ids, mask = ids.to(device), mask.to(device)
                keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
                held.append([(x[keep], y[keep]) for x, y in read_activations(model, ids, mask, site)])
                count += int(keep.sum())
            if count >= batch_size_tokens * buffer_batches:
                layers = _joined(held)
                for _ in range(activation_reuse):
                    yield from _shuffled(layers, batch_size_tokens, generator)
                del layers
                held, count = [], 0


def _joined(held: list[list[ActivationPair]]) -> list[ActivationPair]:
    """All batches of each layer as one; a layer's batches are let go as soon as they are joined."""
    layers = []
    for layer in range(len(held[0])):
        pairs = [batch[layer] for batch in held]
        layers.append((torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])))
        for batch in held:
            batch[layer] = ()
        del pairs
    return layers


def _shuffled(layers: list[ActivationPair], size: int, generator: torch.Generator) -> Iterator[list[ActivationPair]]:
    order = torch.randperm(len(layers[0][0]), generator=generator).to(layers[0][0].device)
    for rows in order.split(size):
        if len(rows) == size:
            yield [(x[rows], y[rows]) for x, y in layers]
