"""Keys and values of tokens that are not run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class PrefixLayer(DynamicLayer):
    """Keys and values of earlier tokens; those of a pass are joined to them and then forgotten."""

    def __init__(self, keys: Tensor, values: Tensor, times: int) -> None:
        super().__init__()
        self.keys, self.values, self.times, self.is_initialized = keys, values, times, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, (batch, head, position, head_dim)."""
        # Repeated here, so that layers that are skipped copy nothing.
        kept = [each.repeat_interleave(self.times, 0) if self.times > 1 else each for each in (self.keys, self.values)]
        return torch.cat([kept[0], key_states], -2), torch.cat([kept[1], value_states], -2)


def build_prefix_cache(
    keys_values: Sequence[tuple[Tensor, Tensor]], length: int | None = None, repeats: int = 1
) -> DynamicCache:
    """A cache of the first tokens of some sequences that every pass finds as it was.

    Args:
        keys_values: of each layer, (sequence, head, position, head_dim) both.
        length: tokens that are kept; all if not given.
        repeats: number of copies of each sequence.
    """
    cache = DynamicCache()
    cache.layers = [PrefixLayer(keys[:, :, :length], values[:, :, :length], repeats) for keys, values in keys_values]
    return cache
