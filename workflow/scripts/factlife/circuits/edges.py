"""Edges: every path by which one part of a model reads what another wrote, and runs in which only some are intact.

The residual stream is a sum, so what a head or an MLP reads is the sum of what the embedding and all earlier heads and
MLPs wrote. An edge is one term of that sum. Where writers pass a norm of their own (Gemma 2, OLMo 2), heads do not add
up, and there are no edges; ``factlife.circuits.nodes`` works there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from factlife.models.anatomy import Block, capture, get_anatomy, patch, weight_matrix


class CircuitError(ValueError):
    """What was asked of a circuit cannot be done; the text says why."""


@dataclass(frozen=True)
class HeadProjections:
    """The heads' queries, keys and values of one block as linear maps of what the attention's norm returns.

    Attributes:
        weight: (reader, head_dim, d_model); readers are all queries, then keys, then values.
        bias: (reader, head_dim).
        modules: the maps' own modules, with the rows of the output that belong to each of some readers:
            (module, readers, (len(readers), head_dim)).
    """

    weight_matrix: Tensor
    bias: Tensor
    modules: list[tuple[nn.Module, Tensor, Tensor]]


def head_projections(block: Block, n_heads: int, n_kv_heads: int, head_dim: int) -> HeadProjections:
    """Queries, keys and values of a block, whichever way its architecture keeps them.

    Raises:
        CircuitError: it keeps them in a way that is not known here.
    """
    attention = block.attention
    queries, keys = n_heads * head_dim, n_kv_heads * head_dim
    row = torch.arange(head_dim)
    if hasattr(attention, "q_proj"):
        modules, start = [], 0
        for name, count in (("q_proj", n_heads), ("k_proj", n_kv_heads), ("v_proj", n_kv_heads)):
            rows = torch.arange(count)[:, None] * head_dim + row
            modules.append((getattr(attention, name), torch.arange(start, start + count), rows))
            start += count
    elif hasattr(attention, "query_key_value"):
        # A head's query, key and value lie side by side.
        part, head = torch.arange(3)[:, None], torch.arange(n_heads)[None]
        rows = ((3 * head + part).flatten()[:, None]) * head_dim + row
        modules = [(attention.query_key_value, torch.arange(3 * n_heads), rows)]
    elif hasattr(attention, "c_attn"):
        rows = torch.arange((queries + 2 * keys) // head_dim)[:, None] * head_dim + row
        modules = [(attention.c_attn, torch.arange(len(rows)), rows)]
    else:
        raise CircuitError(
            f"where {type(attention).__name__} keeps queries, keys and values is not known\n"
            "  add it to head_reads in factlife/circuits/edges.py"
        )
    parts, biases = [], []
    for module, _, rows in modules:
        own = weight_matrix(module) if isinstance(module, Conv1D) else module.weight
        parts.append(own[rows].detach())
        bias = module.bias if module.bias is not None else own.new_zeros(own.shape[0])
        biases.append(bias[rows].detach())
    return HeadProjections(torch.cat(parts), torch.cat(biases), modules)


@dataclass(frozen=True)
class ComputationGraph:
    """Who writes, who reads, and which edges there are.

    Attributes:
        writers: ``input``, then of each layer heads ``a0.h0`` … and MLP ``m0``.
        readers: of each layer ``a0.h0<q>`` …, ``a0.h0<k>`` …, ``a0.h0<v>`` …, and ``m0``; then ``logits``. Where
            several query heads share keys and values, the latter are counted by themselves.
        edges: (writer, reader), true where the reader comes after the writer.
        n_heads: query heads of a layer.
        n_kv_heads: heads of keys and values of a layer.
    """

    writers: list[str]
    readers: list[str]
    edges: Tensor
    n_heads: int
    n_kv_heads: int

    @property
    def n_layers(self) -> int:
        """Blocks of the model."""
        return (len(self.writers) - 1) // (self.n_heads + 1)

    def feeds(self) -> Tensor:
        """(reader, writer): true where what the reader reads goes into what the writer writes."""
        found = torch.zeros(len(self.readers), len(self.writers), dtype=torch.bool)
        group = self.n_heads // self.n_kv_heads
        for row, name in enumerate(self.readers):
            if name.startswith("m"):
                found[row, self.writers.index(name)] = True
            elif name.startswith("a"):
                layer, head = (int(part) for part in name[1:-3].split(".h"))
                first = self.writers.index(f"a{layer}.h0")
                heads = [head] if name.endswith("<q>") else range(head * group, (head + 1) * group)
                for one in heads:
                    found[row, first + one] = True
        return found

    def kinds(self) -> Tensor:
        """(writer, reader): a number for each kind of edge, such as from a head to an MLP, or to a key."""
        from_ = torch.tensor([{"i": 0, "a": 1, "m": 2}[name[0]] for name in self.writers])
        to = torch.tensor([{"q": 0, "k": 1, "v": 2}.get(name[-2], 3 if name[0] == "m" else 4) for name in self.readers])
        return from_[:, None] * 5 + to


def build_computation_graph(
    n_layers: int, n_heads: int, n_kv_heads: int, *, parallel: bool = False
) -> ComputationGraph:
    """All edges of a model of these sizes; ``parallel`` says that an MLP does not read its own block's heads."""
    writers, readers, edges = ["input"], [], []
    for layer in range(n_layers):
        before = len(writers)
        heads = [f"a{layer}.h{head}" for head in range(n_heads)]
        for kind, count in (("q", n_heads), ("k", n_kv_heads), ("v", n_kv_heads)):
            readers += [f"a{layer}.h{head}<{kind}>" for head in range(count)]
            edges += [before] * count
        writers += [*heads, f"m{layer}"]
        readers.append(f"m{layer}")
        edges.append(before if parallel else before + n_heads)
    readers.append("logits")
    edges.append(len(writers))
    allowed = torch.arange(len(writers))[:, None] < torch.tensor(edges)
    return ComputationGraph(writers, readers, allowed, n_heads, n_kv_heads)


@dataclass
class EdgeStates:
    """What a run wrote and read.

    Attributes:
        writes: (writer, batch, position, d_model).
        reads: what attention of each layer, the MLP of each layer and the unembedding read before their norms,
            (2 · layer + 1, batch, position, d_model): attention, MLP, attention, …, logits.
    """

    writes: Tensor
    reads: Tensor


@dataclass
class _Run:
    """What a run in which edges are cut has written so far, less what the corrupted run wrote.

    Attributes:
        masks: (circuit, writer, reader).
        changes: of each writer so far, (circuit, batch · position · d_model).
        heads: outputs of the block's queries, keys and values, (reader, circuit · batch, position, head_dim).
        reads: of each layer's attention, MLP, …, logits, (circuit, reader, batch, position, d_model).
    """

    masks: Tensor
    changes: list[Tensor] = field(default_factory=list)
    heads: Tensor | None = None
    reads: list[Tensor] = field(default_factory=list)


class EdgeModel:
    """A model whose edges can be cut, each by itself; the model is not changed.

    Attributes:
        graph: its writers, readers and edges.
    """

    def __init__(self, model: Any) -> None:
        """Raises ``CircuitError`` where the model has no edges."""
        self.model, self.parts = model, get_anatomy(model)
        parts = self.parts
        if parts.post_norm:
            raise CircuitError(
                f"edges of {model.config.model_type} do not add up, since attention and MLPs write through norms; "
                "set circuits.level: node"
            )
        self.graph = build_computation_graph(parts.n_layers, parts.n_heads, parts.n_kv_heads, parallel=parts.parallel)
        self.layers = [
            head_projections(block, parts.n_heads, parts.n_kv_heads, parts.head_dim) for block in parts.blocks
        ]
        self.out = [
            weight_matrix(block.attention_out).detach().T.unflatten(0, (parts.n_heads, parts.head_dim))
            for block in parts.blocks
        ]

    def record(self, inputs: Tensor) -> EdgeStates:
        """What an ordinary run writes and reads; ``inputs`` as ``inputs_embeds``, (batch, position, d_model)."""
        blocks, entries = self.parts.blocks, {}
        for layer, block in enumerate(blocks):
            entries |= {("block", layer): block.module, ("z", layer): block.attention_out}
            if not self.parts.parallel:
                entries["middle", layer] = block.mlp_norm
        entries["logits", 0] = self.parts.final_norm
        mlps = {layer: block.mlp for layer, block in enumerate(blocks)}
        with torch.no_grad(), capture(entries, inputs=True) as read, capture(mlps) as written:
            self.model.base_model(inputs_embeds=inputs, use_cache=False)
        writes, reads = [read["block", 0][None]], []
        for layer in range(len(blocks)):
            writes += [self._heads(layer, read["z", layer]), written[layer][None]]
            reads += [read["block", layer], read["block" if self.parts.parallel else "middle", layer]]
        return EdgeStates(torch.cat(writes), torch.stack([*reads, read["logits", 0]]))

    def run(self, inputs: Tensor, base: EdgeStates, masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Runs in which every reader gets, over edges that a circuit lacks, what the corrupted run wrote.

        Args:
            inputs: of the clean run, as ``inputs_embeds``, (batch, position, d_model).
            base: what the corrupted run wrote and read.
            masks: 1 for the edges of each circuit, (circuit, writer, reader); where there is no edge, it must be 0.

        Returns:
            Logits at the last position, (circuit, batch, vocabulary), and what each reader read.
        """
        run, count = _Run(masks.to(inputs)), len(masks)
        with ExitStack() as hooks:
            first = self.parts.blocks[0].module
            hooks.enter_context(patch(first, partial(self._start, run, base), inputs=True))
            for layer, block in enumerate(self.parts.blocks):
                before = partial(self._read_heads, run, base, layer)
                hooks.enter_context(patch(block.attention, before, inputs=True))
                for module, readers, rows in self.layers[layer].modules:
                    hooks.enter_context(patch(module, partial(self._give, run, readers, rows)))
                hooks.enter_context(
                    patch(block.attention_out, partial(self._write_heads, run, base, layer), inputs=True)
                )
                hooks.enter_context(patch(block.mlp, partial(self._read_mlp, run, base, layer), inputs=True))
                hooks.enter_context(patch(block.mlp, partial(self._write_mlp, run, base, layer)))
            hooks.enter_context(patch(self.parts.final_norm, partial(self._read_logits, run, base), inputs=True))
            repeated = inputs.repeat(count, 1, 1)
            logits = self.model(inputs_embeds=repeated, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits.unflatten(0, (count, -1)), run.reads

    def effects(self, clean: EdgeStates, base: EdgeStates, gradients: Sequence[Tensor]) -> Tensor:
        """(clean − corrupted) · gradient of each edge, (batch, writer, reader), for gradients of one circuit's reads."""
        gradient = torch.cat([each[0] for each in gradients])
        return torch.einsum("sbpd,rbpd->bsr", clean.writes - base.writes, gradient)

    def _heads(self, layer: int, z: Tensor) -> Tensor:
        """What each head writes, (head, …, d_model), from what the output projection reads, (…, n_heads · head_dim)."""
        out = self.out[layer]
        return torch.einsum("...hk,hkd->h...d", z.unflatten(-1, out.shape[:2]), out)

    def _read(self, run: _Run, base: Tensor, readers: slice) -> Tensor:
        """What some readers read, (circuit, reader, batch, position, d_model)."""
        written = torch.stack(run.changes, 1)
        weights = run.masks[:, : len(run.changes), readers].transpose(1, 2)
        read = base + (weights @ written).unflatten(-1, base.shape)
        run.reads.append(read)
        return read

    def _add(self, run: _Run, base: Tensor, written: Tensor) -> None:
        """``written`` is (circuit · batch, position, d_model)."""
        run.changes.append((written.unflatten(0, (len(run.masks), -1)) - base).flatten(1))

    def _start(self, run: _Run, base: EdgeStates, hidden: Tensor) -> None:
        self._add(run, base.writes[0], hidden)

    def _read_heads(self, run: _Run, base: EdgeStates, layer: int, _: Tensor) -> None:
        per_layer = self.graph.n_heads + 2 * self.graph.n_kv_heads
        start = layer * (per_layer + 1)
        read = self._read(run, base.reads[2 * layer], slice(start, start + per_layer))
        norm = self.parts.blocks[layer].attention_norm
        maps = self.layers[layer]
        run.heads = torch.einsum("crbpd,rkd->rcbpk", norm(read), maps.weight).flatten(1, 2) + maps.bias[:, None, None]

    def _give(self, run: _Run, readers: Tensor, rows: Tensor, output: Tensor) -> Tensor:
        given = torch.empty_like(output)
        given[..., rows] = run.heads[readers].movedim(0, -2)
        return given

    def _write_heads(self, run: _Run, base: EdgeStates, layer: int, z: Tensor) -> None:
        first = 1 + layer * (self.graph.n_heads + 1)
        for head, written in enumerate(self._heads(layer, z)):
            self._add(run, base.writes[first + head], written)

    def _read_mlp(self, run: _Run, base: EdgeStates, layer: int, _: Tensor) -> Tensor:
        at = (layer + 1) * (self.graph.n_heads + 2 * self.graph.n_kv_heads + 1) - 1
        read = self._read(run, base.reads[2 * layer + 1], slice(at, at + 1))
        return self.parts.blocks[layer].mlp_norm(read[:, 0]).flatten(0, 1)

    def _write_mlp(self, run: _Run, base: EdgeStates, layer: int, output: Tensor) -> None:
        self._add(run, base.writes[(layer + 1) * (self.graph.n_heads + 1)], output)

    def _read_logits(self, run: _Run, base: EdgeStates, _: Tensor) -> Tensor:
        return self._read(run, base.reads[-1], slice(-1, None))[:, 0].flatten(0, 1)


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside the context."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def logit_difference(logits: Tensor, answers: Tensor) -> Tensor:
    """The first answer's logit minus the second's, (…, batch), of logits (…, batch, vocabulary), answers (batch, 2)."""
    chosen = logits.gather(-1, answers.expand(*logits.shape[:-1], 2))
    return chosen[..., 0] - chosen[..., 1]
