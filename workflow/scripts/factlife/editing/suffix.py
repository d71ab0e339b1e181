"""Passes over what one changed place can change: later blocks, from that place on; all before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from factlife.models.anatomy import Anatomy, capture, get_anatomy, patch
from factlife.models.prefix_cache import build_prefix_cache


class Suffixes:
    """Sequences cut at one place each: before it, keys and values are kept; from it on, blocks after one can be rerun.

    Attributes:
        hidden: the residual stream after the block from the place on, (sequence, column, d_model); column 0 is the place.
        written: what the block's MLP returns at the place, (sequence, d_model).
        lengths: columns of each sequence that are no padding, (sequence,).
    """

    def __init__(
        self, model: Any, sequences: Sequence[Sequence[int]], places: Sequence[int], layer: int, fill: int
    ) -> None:
        """Run the whole model once.

        Args:
            model: a causal language model of a known anatomy.
            sequences: token ids.
            places: the index at which each is cut.
            layer: the block after which the residual stream may be changed.
            fill: a token id for padding.
        """
        self.model, self.layer = model, layer
        self.parts: Anatomy = get_anatomy(model)
        device = next(model.parameters()).device
        before, after = max(1, *places), max(len(ids) - place for ids, place in zip(sequences, places, strict=True))
        ids = torch.full((len(sequences), before + after), fill)
        self.mask = torch.zeros_like(ids)
        for row, (sequence, place) in enumerate(zip(sequences, places, strict=True)):
            columns = slice(before - place, before - place + len(sequence))
            ids[row, columns], self.mask[row, columns] = torch.tensor(list(sequence)), 1
        ids, self.mask = ids.to(device), self.mask.to(device)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.before, self.ids = before, ids[:, before:]
        self.lengths = self.mask[:, before:].sum(1)
        with torch.no_grad():
            cache = DynamicCache()
            model.base_model(
                ids[:, :before],
                attention_mask=self.mask[:, :before],
                position_ids=self.positions[:, :before],
                past_key_values=cache,
                use_cache=True,
            )
            self.kept = [(layer.keys, layer.values) for layer in cache.layers]
            block, returned = self.parts.blocks[layer], []
            hook = block.module.register_forward_hook(lambda _, __, output: returned.append(isinstance(output, tuple)))
            with capture({"block": block.module, "mlp": block.mlp}) as found:
                self.final = self._run()
            hook.remove()
        self.hidden, self.written, self.wrapped = found["block"], found["mlp"][:, 0], returned[0]

    def rerun(self, hidden: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """What the final norm returns at some places, (place, d_model), if the block had returned ``hidden``."""
        later = self.parts.blocks[self.layer + 1 :]
        entry = later[0].module if later else self.parts.final_norm
        # Of what the last block writes, nothing else is read.
        last = [later[-1].attention_out, later[-1].mlp] if later else []
        with (
            _skipped(self.parts, self.layer, self.wrapped),
            _only(last, row, column),
            patch(entry, lambda _: hidden, inputs=True),
        ):
            return self._run()[row, column]

    def take(self, rows: Tensor) -> Suffixes:
        """Only some of the sequences."""
        taken = object.__new__(Suffixes)
        taken.model, taken.layer, taken.parts, taken.before = self.model, self.layer, self.parts, self.before
        taken.mask, taken.positions, taken.ids = self.mask[rows], self.positions[rows], self.ids[rows]
        taken.lengths, taken.hidden, taken.final = self.lengths[rows], self.hidden[rows], self.final[rows]
        taken.written, taken.wrapped = self.written[rows], self.wrapped
        taken.kept = [(keys[rows], values[rows]) for keys, values in self.kept]
        return taken

    def _run(self) -> Tensor:
        return self.model.base_model(
            self.ids,
            attention_mask=self.mask,
            position_ids=self.positions[:, self.before :],
            past_key_values=build_prefix_cache(self.kept),
            use_cache=True,
        ).last_hidden_state


@contextmanager
def _skipped(parts: Anatomy, layer: int, wrapped: bool) -> Any:
    """Blocks up to one return what they take in, as the first of a tuple where blocks of this architecture do so."""
    with ExitStack() as stack:
        for block in parts.blocks[: layer + 1]:
            block.module.forward = lambda hidden_states, *_, **__: (hidden_states,) if wrapped else hidden_states
            stack.callback(delattr, block.module, "forward")
        yield


@contextmanager
def _only(modules: Sequence[nn.Module], row: Tensor, column: Tensor) -> Any:
    """Modules run at some places only, and return zeros elsewhere."""

    def run(forward: Any, whole: Tensor) -> Tensor:
        here = forward(whole[row, column])
        return here.new_zeros(*whole.shape[:2], here.shape[-1]).index_put((row, column), here)

    with ExitStack() as stack:
        for module in modules:
            module.forward = partial(run, module.forward)
            stack.callback(delattr, module, "forward")
        yield
