"""A key-value cache of a prefix that stays unchanged between passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class PrefixLayer(DynamicLayer):
    """Keys and values of a prefix. Those of a pass are appended for that pass only."""

    def __init__(self, keys: Tensor, values: Tensor, repeats: int) -> None:
        super().__init__()
        self.keys, self.values, self.repeats, self.is_initialized = keys, values, repeats, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, (batch, head, position, head_dim)."""
        # Repeated here, so that skipped layers copy nothing.
        prefix = [
            tensor.repeat_interleave(self.repeats, 0) if self.repeats > 1 else tensor
            for tensor in (self.keys, self.values)
        ]
        return torch.cat([prefix[0], key_states], -2), torch.cat([prefix[1], value_states], -2)


def build_prefix_cache(
    keys_values: Sequence[tuple[Tensor, Tensor]], length: int | None = None, repeats: int = 1
) -> DynamicCache:
    """A cache of the first tokens of some sequences that no pass changes.

    Args:
        keys_values: keys and values of each layer, both (sequence, head, position, head_dim).
        length: number of tokens to keep; all by default.
        repeats: number of copies of each sequence.
    """
    cache = DynamicCache()
    cache.layers = [PrefixLayer(keys[:, :, :length], values[:, :, :length], repeats) for keys, values in keys_values]
    return cache
