"""A model on one prompt with attention patterns and norms held: affine in its embeddings and in what its MLPs write."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from factlife.models.anatomy import Anatomy, anatomy, capture, patch
from factlife.saes.activations import dictionary_sites

# What a layer's MLP writes, (batch, position, d), from what it reads and what the real MLP would write.
Mlp = Callable[[int, Tensor, Tensor], Tensor]
_NAME = "factlife_held"
_held: dict[nn.Module, tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class LogitTarget:
    """What is explained: a weighted sum of logits at the last position, before a cap, if the model has one.

    Attributes:
        label: for people.
        token: id of the token, or None for a contrast of two.
        probability: weight in the graph's influence: of the token, or 1 for a contrast.
        weights: (vocabulary,).
    """

    label: str
    token: int | None
    probability: float
    weights: Tensor


class FrozenModel:
    """One prompt's pass, and the model with that pass's attention patterns and norm scales.

    Attributes:
        ids: (1, n), the prompt.
        embedding: (n, d_model), what enters the first block.
        reads: for each layer what its MLP reads, (n, d_model).
        writes: for each layer what its MLP adds to the residual stream, (n, d_model).
        hidden: (n, d_model), what the unembedding reads.
        logits: (n, vocabulary).
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        """Run the model once and keep what is to be held.

        Args:
            model: in eval mode.
            ids: (1, n).
        """
        self.model, self.parts, self.ids = model, anatomy(model), ids
        self.places = dictionary_sites(self.parts, "transcoder")
        self.patterns: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.scales: dict[nn.Module, Tensor] = {}
        reads = {layer: place.input_module for layer, place in enumerate(self.places)}
        writes = {layer: place.output_module for layer, place in enumerate(self.places)}
        with torch.no_grad(), ExitStack() as stack:
            stack.enter_context(_attention(model, self.patterns))
            for norm in norms(self.parts):
                stack.enter_context(_after(norm, self._keep_scale))
            begun = stack.enter_context(capture({"embedding": self.parts.blocks[0].module}, inputs=True))
            taken = stack.enter_context(capture(reads, inputs=True))
            written = stack.enter_context(capture(writes))
            ended = stack.enter_context(capture({"hidden": self.parts.final_norm}))
            self.logits = model(input_ids=ids, use_cache=False).logits[0].float()
        self.embedding, self.hidden = begun["embedding"][0], ended["hidden"][0]
        self.reads = [taken[layer][0] for layer in range(self.parts.n_layers)]
        self.writes = [written[layer][0] for layer in range(self.parts.n_layers)]

    def run(self, embedding: Tensor, mlp: Mlp, *, free: bool = False) -> tuple[list[Tensor], Tensor]:
        """The model with other embeddings and MLPs, the prompt's patterns and scales held.

        Args:
            embedding: (batch, n, d_model), what enters the first block.
            mlp: what each layer's MLP writes.
            free: hold nothing: patterns and norms follow what they read.

        Returns:
            For each layer what its MLP reads, and what the unembedding reads, all (batch, n, d_model).
        """
        found: dict[int, Tensor] = {}
        with ExitStack() as stack:
            if not free:
                stack.enter_context(_attention(self.model, self.patterns))
                for norm in norms(self.parts):
                    stack.enter_context(_after(norm, self._hold))
            stack.enter_context(patch(self.parts.blocks[0].module, lambda _: embedding, inputs=True))
            for layer, place in enumerate(self.places):
                stack.enter_context(capture_one(place.input_module, found, layer))
                stack.enter_context(patch(place.output_module, lambda y, layer=layer: mlp(layer, found[layer], y)))
            ended = stack.enter_context(capture({"hidden": self.parts.final_norm}))
            self.model.base_model(input_ids=self.ids.expand(len(embedding), -1), use_cache=False)
        return [found[layer] for layer in range(self.parts.n_layers)], ended["hidden"]

    def values(self, targets: Sequence[LogitTarget], hidden: Tensor) -> Tensor:
        """Targets, (…, n_targets), from what the unembedding reads, (…, d_model); before a cap, if there is one."""
        weights = torch.stack([target.weights for target in targets]).to(self.hidden)
        bias = self.parts.unembedding.bias
        constant = 0.0 if bias is None else weights @ bias.detach()
        return self.parts.logit_scale * (hidden @ (weights @ self.parts.unembedding.weight.detach()).T + constant)

    def _keep_scale(self, norm: nn.Module, x: Tensor, y: Tensor) -> None:
        straight, shift = _linear(norm, x)
        straight = straight.double()
        self.scales[norm] = (
            ((y - shift).double() * straight).sum(-1, keepdim=True)
            / straight.square().sum(-1, keepdim=True).clamp(min=1e-30)
        ).to(x.dtype)

    def _hold(self, norm: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        straight, shift = _linear(norm, x)
        return straight * self.scales[norm] + shift


def norms(parts: Anatomy) -> list[nn.Module]:
    """All norms that the residual stream goes through, each once."""
    found = [parts.final_norm]
    for block in parts.blocks:
        found += [block.attention_norm, block.mlp_norm, block.attention_post_norm, block.mlp_post_norm]
    return list(dict.fromkeys(norm for norm in found if norm is not None))


def _linear(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | float]:
    """A norm without its division, and its bias: its output is a positive multiple of the one plus the other."""
    kind = type(norm).__name__
    gain = norm.weight + 1 if "Gemma" in kind else norm.weight
    centred = x - x.mean(-1, keepdim=True) if "LayerNorm" in kind else x
    bias = getattr(norm, "bias", None)
    return centred * gain, 0.0 if bias is None else bias


@contextmanager
def _after(module: nn.Module, fn: Callable[[nn.Module, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Put what a function makes of a module, its input and its output in the output's place, unless it is None."""
    hook = module.register_forward_hook(lambda module, args, output: fn(module, args[0], output))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def capture_one(module: nn.Module, found: dict[int, Tensor], layer: int) -> Iterator[None]:
    """Keep a module's input under a layer's number, before the module runs."""
    with patch(module, lambda x: found.__setitem__(layer, x), inputs=True):
        yield


@contextmanager
def _attention(model: Any, patterns: dict[nn.Module, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Attention whose queries and keys are kept in ``patterns``, or come from there if they are there already."""
    global _held
    before, _held = model.config._attn_implementation, patterns
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation, _held = before, None


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **how: Any) -> Any:
    # Every architecture's own arithmetic, as its file has it: softcaps, sinks, grouped queries.
    eager = sys.modules[type(module).__module__].eager_attention_forward
    query, key = _held.setdefault(module, (query.detach(), key.detach()))
    rows = len(value)
    return eager(module, query.expand(rows, -1, -1, -1), key.expand(rows, -1, -1, -1), value, mask, **how)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, eager_mask)
