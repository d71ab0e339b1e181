"""Forward passes that recompute only later layers and positions, with keys and values of earlier positions cached."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from factlife.models.anatomy import Anatomy, capture, get_anatomy, patch
from factlife.models.prefix_cache import build_prefix_cache


class Suffixes:
    """Sequences split at one position each: the prefix is cached, and later layers of the suffix can be recomputed.

    Attributes:
        hidden: residual stream of the suffixes after the layer, (sequence, column, d_model); column 0 is the split position.
        mlp_output: output of the layer's MLP at the split position, (sequence, d_model).
        lengths: columns of each sequence without padding, (sequence,).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sequences: Sequence[Sequence[int]],
        positions: Sequence[int],
        layer: int,
        pad_token_id: int,
    ) -> None:
        """Run the whole model once.

        Args:
            model: a causal language model of a known anatomy.
            sequences: token ids.
            positions: the position at which each sequence is split.
            layer: the block after which the residual stream may be changed.
            pad_token_id: a token id for padding.
        """
        self.model, self.layer = model, layer
        self.parts: Anatomy = get_anatomy(model)
        device = next(model.parameters()).device
        n_prefix = max(1, *positions)
        n_suffix = max(len(ids) - position for ids, position in zip(sequences, positions, strict=True))
        ids = torch.full((len(sequences), n_prefix + n_suffix), pad_token_id)
        self.mask = torch.zeros_like(ids)
        for row, (sequence, position) in enumerate(zip(sequences, positions, strict=True)):
            columns = slice(n_prefix - position, n_prefix - position + len(sequence))
            ids[row, columns], self.mask[row, columns] = torch.tensor(list(sequence)), 1
        ids, self.mask = ids.to(device), self.mask.to(device)
        self.position_ids = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.n_prefix, self.ids = n_prefix, ids[:, n_prefix:]
        self.lengths = self.mask[:, n_prefix:].sum(1)
        with torch.no_grad():
            cache = DynamicCache()
            model.base_model(
                ids[:, :n_prefix],
                attention_mask=self.mask[:, :n_prefix],
                position_ids=self.position_ids[:, :n_prefix],
                past_key_values=cache,
                use_cache=True,
            )
            self.cache = [(layer.keys, layer.values) for layer in cache.layers]
            block, is_tuple = self.parts.blocks[layer], []
            hook = block.module.register_forward_hook(lambda _, __, output: is_tuple.append(isinstance(output, tuple)))
            with capture({"block": block.module, "mlp": block.mlp}) as outputs:
                self.final = self._run()
            hook.remove()
        self.hidden, self.mlp_output, self.returns_tuple = outputs["block"], outputs["mlp"][:, 0], is_tuple[0]

    def rerun(self, hidden: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Output of the final norm at some positions, (position, d_model), if the layer had returned ``hidden``."""
        later = self.parts.blocks[self.layer + 1 :]
        entry = later[0].module if later else self.parts.final_norm
        # Only these positions of the last block's output are used.
        last = [later[-1].attention_out, later[-1].mlp] if later else []
        with (
            _skip_layers(self.parts, self.layer, self.returns_tuple),
            _run_at(last, row, column),
            patch(entry, lambda _: hidden, inputs=True),
        ):
            return self._run()[row, column]

    def select(self, rows: Tensor) -> Suffixes:
        """A subset of the sequences."""
        subset = object.__new__(Suffixes)
        subset.model, subset.layer, subset.parts, subset.n_prefix = self.model, self.layer, self.parts, self.n_prefix
        subset.mask, subset.position_ids, subset.ids = self.mask[rows], self.position_ids[rows], self.ids[rows]
        subset.lengths, subset.hidden, subset.final = self.lengths[rows], self.hidden[rows], self.final[rows]
        subset.mlp_output, subset.returns_tuple = self.mlp_output[rows], self.returns_tuple
        subset.cache = [(keys[rows], values[rows]) for keys, values in self.cache]
        return subset

    def _run(self) -> Tensor:
        return self.model.base_model(
            self.ids,
            attention_mask=self.mask,
            position_ids=self.position_ids[:, self.n_prefix :],
            past_key_values=build_prefix_cache(self.cache),
            use_cache=True,
        ).last_hidden_state


@contextmanager
def _skip_layers(parts: Anatomy, layer: int, returns_tuple: bool) -> Any:
    """Blocks up to one return their input, as a tuple if blocks of this architecture return one."""
    with ExitStack() as stack:
        for block in parts.blocks[: layer + 1]:
            block.module.forward = lambda hidden_states, *_, **__: (hidden_states,) if returns_tuple else hidden_states
            stack.callback(delattr, block.module, "forward")
        yield


@contextmanager
def _run_at(modules: Sequence[nn.Module], row: Tensor, column: Tensor) -> Any:
    """Modules run at some positions only, and return zeros elsewhere."""

    def run(forward: Any, hidden: Tensor) -> Tensor:
        output = forward(hidden[row, column])
        return output.new_zeros(*hidden.shape[:2], output.shape[-1]).index_put((row, column), output)

    with ExitStack() as stack:
        for module in modules:
            module.forward = partial(run, module.forward)
            stack.callback(delattr, module, "forward")
        yield
