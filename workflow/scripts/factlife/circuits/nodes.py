"""Nodes: whole heads and MLPs, kept or replaced by their output in another run.

Where attention and MLPs write through norms (Gemma 2, OLMo 2), head outputs do not add up in the residual stream and
there are no edges. A head can still be replaced before the output projection. A graph of nodes has one reader, the
logits, so all functions on edges also work on nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from factlife.circuits.edges import ComputationGraph
from factlife.models.anatomy import capture, get_anatomy, patch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class NodeStates:
    """Outputs of a run's nodes.

    Attributes:
        writes: the embedding, then for each layer the concatenated heads, (batch, position, n_heads · head_dim), and the
            MLP, (batch, position, d_model).
    """

    writes: list[Tensor]


@dataclass
class _NodeRun:
    """Masks, (circuit, writer, 1), and node outputs after replacement, each (circuit, batch, position, width)."""

    masks: Tensor
    outputs: list[Tensor] = field(default_factory=list)


class NodeModel:
    """A model whose heads and MLPs can be replaced one by one, used like ``EdgeModel``. The model itself is not changed.

    Attributes:
        graph: writers of the model, each with one edge to the logits, except the embedding, which is never replaced.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.parts = model, get_anatomy(model)
        layers, heads = range(self.parts.n_layers), range(self.parts.n_heads)
        writers = ["input"]
        for layer in layers:
            writers += [*(f"a{layer}.h{head}" for head in heads), f"m{layer}"]
        edges = torch.ones(len(writers), 1, dtype=torch.bool)
        edges[0] = False
        self.graph = ComputationGraph(writers, ["logits"], edges, self.parts.n_heads, self.parts.n_kv_heads)

    def record(self, inputs: Tensor) -> NodeStates:
        """Node outputs in an unpatched run; ``inputs`` are ``inputs_embeds``, (batch, position, d_model)."""
        blocks = self.parts.blocks
        heads = {layer: block.attention_out for layer, block in enumerate(blocks)}
        mlps = {layer: block.mlp_post_norm or block.mlp for layer, block in enumerate(blocks)}
        with torch.no_grad(), capture(heads, inputs=True) as head_outputs, capture(mlps) as mlp_outputs:
            self.model.base_model(inputs_embeds=inputs, use_cache=False)
        return NodeStates(
            [inputs, *(outputs[layer] for layer in range(len(blocks)) for outputs in (head_outputs, mlp_outputs))]
        )

    def run(self, inputs: Tensor, base: NodeStates, masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run circuits: nodes outside a circuit keep their output of another run.

        Args:
            inputs: ``inputs_embeds`` of the run, (batch, position, d_model).
            base: node outputs of the other run.
            masks: 1 for the nodes of each circuit, (circuit, writer, 1).

        Returns:
            Logits at the last position, (circuit, batch, vocabulary), and outputs of the embedding and of each layer's
            heads and MLP, each (circuit, batch, position, width).
        """
        run, count, heads = _NodeRun(masks.to(inputs)), len(masks), self.parts.n_heads
        run.outputs.append(inputs.expand(count, *inputs.shape))
        with ExitStack() as hooks:
            for layer, block in enumerate(self.parts.blocks):
                first = 1 + layer * (heads + 1)
                write = partial(self._write, run, base.writes[2 * layer + 1], slice(first, first + heads))
                hooks.enter_context(patch(block.attention_out, write, inputs=True))
                write = partial(self._write, run, base.writes[2 * layer + 2], slice(first + heads, first + heads + 1))
                hooks.enter_context(patch(block.mlp_post_norm or block.mlp, write))
            repeated = run.outputs[0].flatten(0, 1)
            logits = self.model(inputs_embeds=repeated, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits.unflatten(0, (count, -1)), run.outputs

    def effects(self, clean: NodeStates, base: NodeStates, gradients: Sequence[Tensor]) -> Tensor:
        """(clean − corrupted) · gradient of each node, (batch, writer, 1), for gradients of one circuit."""
        effects: list[Tensor] = []
        for clean_output, base_output, gradient in zip(clean.writes, base.writes, gradients, strict=True):
            product = ((clean_output - base_output) * gradient[0]).sum(1)
            is_heads = len(effects) % 2
            effects.append(
                product.unflatten(-1, (self.parts.n_heads, -1)).sum(-1) if is_heads else product.sum(-1, True)
            )
        return torch.cat(effects, 1)[..., None]

    def _write(self, run: _NodeRun, base: Tensor, rows: slice, output: Tensor) -> Tensor:
        output = output.unflatten(0, (len(run.masks), -1))
        mask = run.masks[:, rows, 0].repeat_interleave(output.shape[-1] // (rows.stop - rows.start), 1)
        run.outputs.append(torch.lerp(base.expand_as(output), output, mask[:, None, None]))
        return run.outputs[-1].flatten(0, 1)
