"""Nodes: heads and MLPs as wholes, kept or replaced by what they wrote in another run.

Where writers pass a norm of their own (Gemma 2, OLMo 2), what heads write does not add up in the residual stream, and
there are no edges. A head can be replaced all the same, before the output projection. A graph of nodes has one reader,
the logits, so that all that works on edges works on nodes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from factlife.circuits.edges import ComputationGraph
from factlife.models.anatomy import capture, get_anatomy, patch


@dataclass
class NodeStates:
    """What a run's nodes wrote.

    Attributes:
        writes: the embedding, then of each layer the heads side by side, (batch, position, n_heads · head_dim), and the
            MLP, (batch, position, d_model).
    """

    writes: list[Tensor]


@dataclass
class _Run:
    """Masks, (circuit, writer, 1), and what nodes wrote after the replacement, each (circuit, batch, position, width)."""

    masks: Tensor
    written: list[Tensor] = field(default_factory=list)


class NodeModel:
    """A model whose heads and MLPs can be replaced, each by itself; used as ``EdgeModel`` is. The model is not changed.

    Attributes:
        graph: its writers, and for each but the embedding, which always stays, one edge to the logits.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.parts = model, get_anatomy(model)
        layers, heads = range(self.parts.n_layers), range(self.parts.n_heads)
        writers = ["input"]
        for layer in layers:
            writers += [*(f"a{layer}.h{head}" for head in heads), f"m{layer}"]
        edges = torch.ones(len(writers), 1, dtype=torch.bool)
        edges[0] = False
        self.graph = ComputationGraph(writers, ["logits"], edges, self.parts.n_heads, self.parts.n_kv_heads)

    def record(self, inputs: Tensor) -> NodeStates:
        """What an ordinary run's nodes write; ``inputs`` as ``inputs_embeds``, (batch, position, d_model)."""
        blocks = self.parts.blocks
        heads = {layer: block.attention_out for layer, block in enumerate(blocks)}
        mlps = {layer: block.mlp_post_norm or block.mlp for layer, block in enumerate(blocks)}
        with torch.no_grad(), capture(heads, inputs=True) as read, capture(mlps) as written:
            self.model.base_model(inputs_embeds=inputs, use_cache=False)
        return NodeStates([inputs, *(each[layer] for layer in range(len(blocks)) for each in (read, written))])

    def run(self, inputs: Tensor, base: NodeStates, masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Runs in which the nodes that a circuit lacks write what they wrote in another run.

        Args:
            inputs: of the run, as ``inputs_embeds``, (batch, position, d_model).
            base: what nodes wrote in the other run.
            masks: 1 for the nodes of each circuit, (circuit, writer, 1).

        Returns:
            Logits at the last position, (circuit, batch, vocabulary), and what the embedding and each layer's heads and
            MLP wrote, each (circuit, batch, position, width).
        """
        run, count, heads = _Run(masks.to(inputs)), len(masks), self.parts.n_heads
        run.written.append(inputs.expand(count, *inputs.shape))
        with ExitStack() as hooks:
            for layer, block in enumerate(self.parts.blocks):
                first = 1 + layer * (heads + 1)
                write = partial(self._write, run, base.writes[2 * layer + 1], slice(first, first + heads))
                hooks.enter_context(patch(block.attention_out, write, inputs=True))
                write = partial(self._write, run, base.writes[2 * layer + 2], slice(first + heads, first + heads + 1))
                hooks.enter_context(patch(block.mlp_post_norm or block.mlp, write))
            repeated = run.written[0].flatten(0, 1)
            logits = self.model(inputs_embeds=repeated, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits.unflatten(0, (count, -1)), run.written

    def effects(self, clean: NodeStates, base: NodeStates, gradients: Sequence[Tensor]) -> Tensor:
        """(clean − corrupted) · gradient of each node, (batch, writer, 1), for gradients of one circuit."""
        found = []
        for one, other, gradient in zip(clean.writes, base.writes, gradients, strict=True):
            product = ((one - other) * gradient[0]).sum(1)
            is_heads = len(found) % 2
            found.append(product.unflatten(-1, (self.parts.n_heads, -1)).sum(-1) if is_heads else product.sum(-1, True))
        return torch.cat(found, 1)[..., None]

    def _write(self, run: _Run, base: Tensor, rows: slice, own: Tensor) -> Tensor:
        own = own.unflatten(0, (len(run.masks), -1))
        kept = run.masks[:, rows, 0].repeat_interleave(own.shape[-1] // (rows.stop - rows.start), 1)
        run.written.append(torch.lerp(base.expand_as(own), own, kept[:, None, None]))
        return run.written[-1].flatten(0, 1)
