"""Edges between components of a model, and runs in which some edges are corrupted.

The residual stream is a sum, so the input of a head or MLP is the sum of the outputs of the embedding and of all earlier
heads and MLPs. An edge is one term of that sum. Where attention and MLPs write through norms (Gemma 2, OLMo 2), head
outputs do not add up and there are no edges; use ``factlife.circuits.nodes`` there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from factlife.models.anatomy import Block, capture, get_anatomy, patch, weight_matrix

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CircuitError(ValueError):
    """The circuit cannot be discovered or evaluated; the message gives the reason."""


@dataclass(frozen=True)
class HeadProjections:
    """Query, key and value projections of one block's heads, as linear maps of the normed residual stream.

    Attributes:
        weight: (reader, head_dim, d_model); readers are all queries, then keys, then values.
        bias: (reader, head_dim).
        modules: the modules that hold them, each with its readers and the output rows of each reader:
            (module, readers, (len(readers), head_dim)).
    """

    weight: Tensor
    bias: Tensor
    modules: list[tuple[nn.Module, Tensor, Tensor]]


def head_projections(block: Block, n_heads: int, n_kv_heads: int, head_dim: int) -> HeadProjections:
    """Query, key and value projections of a block, for all supported layouts.

    Raises:
        CircuitError: the layout is not supported.
    """
    attention = block.attention
    queries, keys = n_heads * head_dim, n_kv_heads * head_dim
    offsets = torch.arange(head_dim)
    if hasattr(attention, "q_proj"):
        modules, start = [], 0
        for name, count in (("q_proj", n_heads), ("k_proj", n_kv_heads), ("v_proj", n_kv_heads)):
            rows = torch.arange(count)[:, None] * head_dim + offsets
            modules.append((getattr(attention, name), torch.arange(start, start + count), rows))
            start += count
    elif hasattr(attention, "query_key_value"):
        # Query, key and value of a head are adjacent.
        part, head = torch.arange(3)[:, None], torch.arange(n_heads)[None]
        rows = ((3 * head + part).flatten()[:, None]) * head_dim + offsets
        modules = [(attention.query_key_value, torch.arange(3 * n_heads), rows)]
    elif hasattr(attention, "c_attn"):
        rows = torch.arange((queries + 2 * keys) // head_dim)[:, None] * head_dim + offsets
        modules = [(attention.c_attn, torch.arange(len(rows)), rows)]
    else:
        raise CircuitError(
            f"the layout of queries, keys and values in {type(attention).__name__} is not supported\n"
            "  add it to head_reads in factlife/circuits/edges.py"
        )
    weights, biases = [], []
    for module, _, rows in modules:
        module_weight = weight_matrix(module) if isinstance(module, Conv1D) else module.weight
        weights.append(module_weight[rows].detach())
        bias = module.bias if module.bias is not None else module_weight.new_zeros(module_weight.shape[0])
        biases.append(bias[rows].detach())
    return HeadProjections(torch.cat(weights), torch.cat(biases), modules)


@dataclass(frozen=True)
class ComputationGraph:
    """Writers and readers of a model, and the edges between them.

    Attributes:
        writers: ``input``, then for each layer the heads ``a0.h0`` … and the MLP ``m0``.
        readers: for each layer ``a0.h0<q>`` …, ``a0.h0<k>`` …, ``a0.h0<v>`` …, and ``m0``; then ``logits``. Keys and
            values that several query heads share occur once.
        edges: (writer, reader), true where the reader comes after the writer.
        n_heads: query heads per layer.
        n_kv_heads: key-value heads per layer.
    """

    writers: list[str]
    readers: list[str]
    edges: Tensor
    n_heads: int
    n_kv_heads: int

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return (len(self.writers) - 1) // (self.n_heads + 1)

    def feeds(self) -> Tensor:
        """(reader, writer): true where the reader is an input of the writer's component."""
        feeds = torch.zeros(len(self.readers), len(self.writers), dtype=torch.bool)
        group = self.n_heads // self.n_kv_heads
        for row, name in enumerate(self.readers):
            if name.startswith("m"):
                feeds[row, self.writers.index(name)] = True
            elif name.startswith("a"):
                layer, head = (int(part) for part in name[1:-3].split(".h"))
                first = self.writers.index(f"a{layer}.h0")
                heads = [head] if name.endswith("<q>") else range(head * group, (head + 1) * group)
                for head_index in heads:
                    feeds[row, first + head_index] = True
        return feeds

    def kinds(self) -> Tensor:
        """(writer, reader): code of the edge's kind, such as head to MLP or head to key."""
        from_ = torch.tensor([{"i": 0, "a": 1, "m": 2}[name[0]] for name in self.writers])
        to = torch.tensor([{"q": 0, "k": 1, "v": 2}.get(name[-2], 3 if name[0] == "m" else 4) for name in self.readers])
        return from_[:, None] * 5 + to


def build_computation_graph(
    n_layers: int, n_heads: int, n_kv_heads: int, *, parallel: bool = False
) -> ComputationGraph:
    """Graph of a model of these sizes; with ``parallel``, MLPs do not read the heads of their own block."""
    writers, readers, edges = ["input"], [], []
    for layer in range(n_layers):
        n_earlier = len(writers)
        heads = [f"a{layer}.h{head}" for head in range(n_heads)]
        for kind, count in (("q", n_heads), ("k", n_kv_heads), ("v", n_kv_heads)):
            readers += [f"a{layer}.h{head}<{kind}>" for head in range(count)]
            edges += [n_earlier] * count
        writers += [*heads, f"m{layer}"]
        readers.append(f"m{layer}")
        edges.append(n_earlier if parallel else n_earlier + n_heads)
    readers.append("logits")
    edges.append(len(writers))
    allowed = torch.arange(len(writers))[:, None] < torch.tensor(edges)
    return ComputationGraph(writers, readers, allowed, n_heads, n_kv_heads)


@dataclass
class EdgeStates:
    """Outputs and inputs of a run's components.

    Attributes:
        writes: outputs, (writer, batch, position, d_model).
        reads: inputs of attention, MLPs and unembedding before their norms, (2 · layer + 1, batch, position, d_model), in
            the order attention, MLP, attention, …, logits.
    """

    writes: Tensor
    reads: Tensor


@dataclass
class _EdgeRun:
    """State of a run with corrupted edges: outputs so far, minus the outputs of the corrupted run.

    Attributes:
        masks: (circuit, writer, reader).
        changes: change of each writer's output so far, (circuit, batch · position · d_model).
        heads: queries, keys and values of the current block, (reader, circuit · batch, position, head_dim).
        reads: inputs of attention, MLP, …, logits, (circuit, reader, batch, position, d_model).
    """

    masks: Tensor
    changes: list[Tensor] = field(default_factory=list)
    heads: Tensor = field(init=False)
    reads: list[Tensor] = field(default_factory=list)


class EdgeModel:
    """A model whose edges can be corrupted one by one; the model itself is not changed.

    Attributes:
        graph: writers, readers and edges of the model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises ``CircuitError`` if the model has no edges."""
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
        """Outputs and inputs in an unpatched run; ``inputs`` are ``inputs_embeds``, (batch, position, d_model)."""
        blocks = self.parts.blocks
        entries: dict[Any, nn.Module] = {}
        for layer, block in enumerate(blocks):
            entries |= {("block", layer): block.module, ("z", layer): block.attention_out}
            if not self.parts.parallel:
                entries["mlp_norm", layer] = block.mlp_norm
        entries["logits", 0] = self.parts.final_norm
        mlps = {layer: block.mlp for layer, block in enumerate(blocks)}
        with torch.no_grad(), capture(entries, inputs=True) as module_inputs, capture(mlps) as module_outputs:
            self.model.base_model(inputs_embeds=inputs, use_cache=False)
        writes, reads = [module_inputs["block", 0][None]], []
        for layer in range(len(blocks)):
            writes += [self._heads(layer, module_inputs["z", layer]), module_outputs[layer][None]]
            reads += [
                module_inputs["block", layer],
                module_inputs["block" if self.parts.parallel else "mlp_norm", layer],
            ]
        return EdgeStates(torch.cat(writes), torch.stack([*reads, module_inputs["logits", 0]]))

    def run(self, inputs: Tensor, base: EdgeStates, masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run circuits: edges outside a circuit carry their value of the corrupted run.

        Args:
            inputs: ``inputs_embeds`` of the clean run, (batch, position, d_model).
            base: states of the corrupted run.
            masks: 1 for the edges of each circuit, (circuit, writer, reader); must be 0 where the model has no edge.

        Returns:
            Logits at the last position, (circuit, batch, vocabulary), and the input of each reader.
        """
        run, count = _EdgeRun(masks.to(inputs)), len(masks)
        with ExitStack() as hooks:
            first = self.parts.blocks[0].module
            hooks.enter_context(patch(first, partial(self._write_input, run, base), inputs=True))
            for layer, block in enumerate(self.parts.blocks):
                read_heads = partial(self._read_heads, run, base, layer)
                hooks.enter_context(patch(block.attention, read_heads, inputs=True))
                for module, readers, rows in self.layers[layer].modules:
                    hooks.enter_context(patch(module, partial(self._patch_heads, run, readers, rows)))
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
        """(clean − corrupted) · gradient of each edge, (batch, writer, reader), for the gradients of one circuit's reader inputs."""
        gradient = torch.cat([reader_gradients[0] for reader_gradients in gradients])
        return torch.einsum("sbpd,rbpd->bsr", clean.writes - base.writes, gradient)

    def _heads(self, layer: int, z: Tensor) -> Tensor:
        """Output of each head, (head, …, d_model), from the input of the output projection, (…, n_heads · head_dim)."""
        out = self.out[layer]
        return torch.einsum("...hk,hkd->h...d", z.unflatten(-1, out.shape[:2]), out)

    def _read(self, run: _EdgeRun, base: Tensor, readers: slice) -> Tensor:
        """Inputs of some readers, (circuit, reader, batch, position, d_model)."""
        changes = torch.stack(run.changes, 1)
        weights = run.masks[:, : len(run.changes), readers].transpose(1, 2)
        reader_inputs = base + (weights @ changes).unflatten(-1, base.shape)
        run.reads.append(reader_inputs)
        return reader_inputs

    def _add(self, run: _EdgeRun, base: Tensor, output: Tensor) -> None:
        """Record a writer's ``output``, (circuit · batch, position, d_model)."""
        run.changes.append((output.unflatten(0, (len(run.masks), -1)) - base).flatten(1))

    def _write_input(self, run: _EdgeRun, base: EdgeStates, hidden: Tensor) -> None:
        self._add(run, base.writes[0], hidden)

    def _read_heads(self, run: _EdgeRun, base: EdgeStates, layer: int, _: Tensor) -> None:
        per_layer = self.graph.n_heads + 2 * self.graph.n_kv_heads
        start = layer * (per_layer + 1)
        reader_inputs = self._read(run, base.reads[2 * layer], slice(start, start + per_layer))
        norm: Any = self.parts.blocks[layer].attention_norm
        maps = self.layers[layer]
        run.heads = (
            torch.einsum("crbpd,rkd->rcbpk", norm(reader_inputs), maps.weight).flatten(1, 2) + maps.bias[:, None, None]
        )

    def _patch_heads(self, run: _EdgeRun, readers: Tensor, rows: Tensor, output: Tensor) -> Tensor:
        patched = torch.empty_like(output)
        patched[..., rows] = run.heads[readers].movedim(0, -2)
        return patched

    def _write_heads(self, run: _EdgeRun, base: EdgeStates, layer: int, z: Tensor) -> None:
        first = 1 + layer * (self.graph.n_heads + 1)
        for head, head_output in enumerate(self._heads(layer, z)):
            self._add(run, base.writes[first + head], head_output)

    def _read_mlp(self, run: _EdgeRun, base: EdgeStates, layer: int, _: Tensor) -> Tensor:
        row = (layer + 1) * (self.graph.n_heads + 2 * self.graph.n_kv_heads + 1) - 1
        reader_inputs = self._read(run, base.reads[2 * layer + 1], slice(row, row + 1))
        norm: Any = self.parts.blocks[layer].mlp_norm
        return norm(reader_inputs[:, 0]).flatten(0, 1)

    def _write_mlp(self, run: _EdgeRun, base: EdgeStates, layer: int, output: Tensor) -> None:
        self._add(run, base.writes[(layer + 1) * (self.graph.n_heads + 1)], output)

    def _read_logits(self, run: _EdgeRun, base: EdgeStates, _: Tensor) -> Tensor:
        return self._read(run, base.reads[-1], slice(-1, None))[:, 0].flatten(0, 1)


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside the context."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def logit_difference(logits: Tensor, answers: Tensor) -> Tensor:
    """Logit of the first minus the second answer, (…, batch), for logits (…, batch, vocabulary), answers (batch, 2)."""
    answer_logits = logits.gather(-1, answers.expand(*logits.shape[:-1], 2))
    return answer_logits[..., 0] - answer_logits[..., 1]
