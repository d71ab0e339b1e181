"""Inputs and targets of the dictionaries of every layer, streamed so that only one buffer is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from factlife.models.anatomy import Anatomy, capture, get_anatomy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Input and target of a dictionary.
ActivationPair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DictionarySite:
    """Modules between which the dictionary of one layer sits.

    Attributes:
        input_module: module whose input or output the dictionary encodes.
        reads_input: whether the dictionary encodes the input of ``input_module``; if not, its output.
        output_module: module whose output the dictionary reconstructs.
    """

    input_module: nn.Module
    reads_input: bool
    output_module: nn.Module


def dictionary_sites(parts: Anatomy, site: str) -> list[DictionarySite]:
    """One site per layer, for a value of ``site`` in the config."""
    if site == "transcoder":
        return [DictionarySite(block.mlp, True, block.mlp_post_norm or block.mlp) for block in parts.blocks]
    modules = {
        "residual": [block.module for block in parts.blocks],
        "attention": [block.attention_post_norm or block.attention for block in parts.blocks],
        "mlp": [block.mlp_post_norm or block.mlp for block in parts.blocks],
    }[site]
    return [DictionarySite(module, False, module) for module in modules]


def read_activations(model: PreTrainedModel, ids: Tensor, mask: Tensor, site: str) -> list[ActivationPair]:
    """Input and target of the dictionary of each layer, both (batch, position, d), at every position."""
    sites = dictionary_sites(get_anatomy(model), site)
    input_modules = {layer: modules.input_module for layer, modules in enumerate(sites) if modules.reads_input}
    output_modules = {layer: modules.output_module for layer, modules in enumerate(sites)}
    with torch.no_grad(), capture(input_modules, inputs=True) as inputs, capture(output_modules) as outputs:
        model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return [(inputs.get(layer, outputs[layer]), outputs[layer]) for layer in range(len(sites))]


def token_batches(
    sequences: Sequence[Sequence[int]], batch_size_tokens: int, pad: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and mask, both (batch, position), of consecutive sequences; padding counts towards the batch size."""
    start = 0
    while start < len(sequences):
        length, end = len(sequences[start]), start + 1
        while end < len(sequences) and (end + 1 - start) * max(length, len(sequences[end])) <= batch_size_tokens:
            length, end = max(length, len(sequences[end])), end + 1
        rows = [torch.as_tensor(ids, dtype=torch.long) for ids in sequences[start:end]]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        yield ids, mask.long()
        start = end


def special_tokens_mask(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Tensor:
    """True at special tokens and at first positions, where features are not defined; shaped (…, position) as ``ids``.

    If a tokenizer adds no beginning-of-sequence token, models treat the first token as one: it becomes the attention
    sink, and its residual stream is hundreds of times longer than elsewhere.
    """
    is_special = torch.isin(ids, torch.tensor(sorted(tokenizer.all_special_ids), device=ids.device))
    is_special[..., 0] = True
    return is_special


def stream_activations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    site: str,
    *,
    batch_size_tokens: int,
    buffer_batches: int,
    activation_reuse: int,
    generator: torch.Generator,
) -> Iterator[list[ActivationPair]]:
    """Yield shuffled batches of activations for every layer without end; each pass over the text has a new order.

    Args:
        model: the model to read.
        tokenizer: its tokenizer; special tokens are left out.
        sequences: token ids of documents.
        site: site as in the config.
        batch_size_tokens: positions in a batch.
        buffer_batches: batches that are shuffled together; only this buffer is in memory.
        activation_reuse: times that each activation is used before the next buffer is filled.
        generator: random generator of the order.

    Yields:
        For each layer the dictionary's input and target, (batch_size_tokens, d_in) and (batch_size_tokens, d_out); the
        positions are the same at every layer.
    """
    device = next(model.parameters()).device
    pad = tokenizer.pad_token_id or 0
    buffer: list[list[ActivationPair]] = []
    n_positions = 0
    while True:
        order = torch.randperm(len(sequences), generator=generator).tolist()
        # Sorting a random chunk by length puts similar lengths into one batch, which saves padding.
        for chunk in torch.tensor(order).split(256):
            by_length = sorted((sequences[row] for row in chunk.tolist()), key=len)
            for ids, mask in token_batches(by_length, 8192, pad):
                ids, mask = ids.to(device), mask.to(device)
                keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
                buffer.append([(x[keep], y[keep]) for x, y in read_activations(model, ids, mask, site)])
                n_positions += int(keep.sum())
            if n_positions >= batch_size_tokens * buffer_batches:
                layers = _concatenated(buffer)
                for _ in range(activation_reuse):
                    yield from _shuffled(layers, batch_size_tokens, generator)
                del layers
                buffer, n_positions = [], 0


def _concatenated(buffer: list[list[ActivationPair]]) -> list[ActivationPair]:
    """Concatenate the batches of each layer, and free a layer's batches as soon as they are concatenated."""
    layers = []
    while buffer[0]:
        pairs = [batch.pop(0) for batch in buffer]
        layers.append((torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])))
        del pairs
    return layers


def _shuffled(
    layers: list[ActivationPair], batch_size: int, generator: torch.Generator
) -> Iterator[list[ActivationPair]]:
    order = torch.randperm(len(layers[0][0]), generator=generator).to(layers[0][0].device)
    for rows in order.split(batch_size):
        if len(rows) == batch_size:
            yield [(x[rows], y[rows]) for x, y in layers]
