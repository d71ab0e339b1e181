"""A model with attention patterns and norms frozen on one prompt: affine in its embeddings and its MLP outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from factlife.models.anatomy import Anatomy, capture, get_anatomy, patch
from factlife.saes.activations import dictionary_sites

# Output of a layer's MLP, (batch, position, d), from the layer, the MLP's input and the real MLP's output.
MlpFunction = Callable[[int, Tensor, Tensor], Tensor]
_NAME = "factlife_frozen"
_frozen_patterns: dict[nn.Module, tuple[Tensor, Tensor]] = {}


@dataclass(frozen=True)
class LogitTarget:
    """An attribution target: a weighted sum of logits at the last position, before any logit cap.

    Attributes:
        label: text for people.
        token: id of the token, or None for a contrast of two tokens.
        probability: weight in the graph's influence: the token's probability, or 1 for a contrast.
        weights: (vocabulary,), weight of each logit.
    """

    label: str
    token: int | None
    probability: float
    weights: Tensor


class FrozenModel:
    """A model with the attention patterns and norm scales of its pass over one prompt.

    Attributes:
        ids: (1, n), the prompt.
        embedding: (n, d_model), input of the first block.
        mlp_inputs: input of each layer's MLP, (n, d_model).
        mlp_outputs: what each layer's MLP adds to the residual stream, (n, d_model).
        hidden: (n, d_model), input of the unembedding.
        logits: (n, vocabulary).
    """

    def __init__(self, model: PreTrainedModel, ids: Tensor) -> None:
        """Run the model once and record what is to be frozen.

        Args:
            model: the model, in eval mode.
            ids: (1, n).
        """
        self.model, self.parts, self.ids = model, get_anatomy(model), ids
        self.sites = dictionary_sites(self.parts, "transcoder")
        self.patterns: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.scales: dict[nn.Module, Tensor] = {}
        input_modules = {layer: site.input_module for layer, site in enumerate(self.sites)}
        output_modules = {layer: site.output_module for layer, site in enumerate(self.sites)}
        with torch.no_grad(), ExitStack() as stack:
            stack.enter_context(_frozen_attention(model, self.patterns))
            for norm in norms(self.parts):
                stack.enter_context(_output_hook(norm, self._record_scale))
            first = stack.enter_context(capture({"embedding": self.parts.blocks[0].module}, inputs=True))
            mlp_inputs = stack.enter_context(capture(input_modules, inputs=True))
            mlp_outputs = stack.enter_context(capture(output_modules))
            final = stack.enter_context(capture({"hidden": self.parts.final_norm}))
            self.logits = model(input_ids=ids, use_cache=False).logits[0].float()
        self.embedding, self.hidden = first["embedding"][0], final["hidden"][0]
        self.mlp_inputs = [mlp_inputs[layer][0] for layer in range(self.parts.n_layers)]
        self.mlp_outputs = [mlp_outputs[layer][0] for layer in range(self.parts.n_layers)]

    def run(self, embedding: Tensor, mlp: MlpFunction, *, unfrozen: bool = False) -> tuple[list[Tensor], Tensor]:
        """Run the model with other embeddings and MLPs, but with the prompt's attention patterns and norm scales.

        Args:
            embedding: (batch, n, d_model), input of the first block.
            mlp: replaces the output of each layer's MLP.
            unfrozen: freeze nothing, so that attention patterns and norms respond to the changes.

        Returns:
            The input of each layer's MLP and the input of the unembedding, all (batch, n, d_model).
        """
        mlp_inputs: dict[int, Tensor] = {}
        with ExitStack() as stack:
            if not unfrozen:
                stack.enter_context(_frozen_attention(self.model, self.patterns))
                for norm in norms(self.parts):
                    stack.enter_context(_output_hook(norm, self._frozen_norm))
            stack.enter_context(patch(self.parts.blocks[0].module, lambda _: embedding, inputs=True))
            for layer, site in enumerate(self.sites):
                stack.enter_context(capture_input(site.input_module, mlp_inputs, layer))
                stack.enter_context(patch(site.output_module, partial(_replace_output, mlp, mlp_inputs, layer)))
            final = stack.enter_context(capture({"hidden": self.parts.final_norm}))
            self.model.base_model(input_ids=self.ids.expand(len(embedding), -1), use_cache=False)
        return [mlp_inputs[layer] for layer in range(self.parts.n_layers)], final["hidden"]

    def target_values(self, targets: Sequence[LogitTarget], hidden: Tensor) -> Tensor:
        """Values of the targets, (…, n_targets), from the input of the unembedding, (…, d_model); before any logit cap."""
        weights = torch.stack([target.weights for target in targets]).to(self.hidden)
        bias = self.parts.unembedding.bias
        constant = 0.0 if bias is None else weights @ bias.detach()
        return self.parts.logit_scale * (hidden @ (weights @ self.parts.unembedding.weight.detach()).T + constant)

    def _record_scale(self, norm: nn.Module, x: Tensor, y: Tensor) -> None:
        linear, shift = _linear_part(norm, x)
        linear = linear.double()
        self.scales[norm] = (
            ((y - shift).double() * linear).sum(-1, keepdim=True)
            / linear.square().sum(-1, keepdim=True).clamp(min=1e-30)
        ).to(x.dtype)

    def _frozen_norm(self, norm: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        linear, shift = _linear_part(norm, x)
        return linear * self.scales[norm] + shift


def norms(parts: Anatomy) -> list[nn.Module]:
    """All norms on the way of the residual stream, each once."""
    modules = [parts.final_norm]
    for block in parts.blocks:
        modules += [block.attention_norm, block.mlp_norm, block.attention_post_norm, block.mlp_post_norm]
    return list(dict.fromkeys(norm for norm in modules if norm is not None))


def _linear_part(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | float]:
    """A norm without its division, and its bias: the norm's output is a positive multiple of the first plus the second."""
    kind = type(norm).__name__
    gain = norm.weight + 1 if "Gemma" in kind else norm.weight
    centred = x - x.mean(-1, keepdim=True) if "LayerNorm" in kind else x
    bias = getattr(norm, "bias", None)
    return centred * gain, 0.0 if bias is None else bias


@contextmanager
def _output_hook(module: nn.Module, fn: Callable[[nn.Module, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Call a function with a module, its input and its output; its result replaces the output unless it is None."""
    hook = module.register_forward_hook(lambda module, args, output: fn(module, args[0], output))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def capture_input(module: nn.Module, inputs: dict[int, Tensor], layer: int) -> Iterator[None]:
    """Store a module's input under its layer before the module runs."""
    with patch(module, lambda x: inputs.__setitem__(layer, x), inputs=True):
        yield


def _replace_output(mlp: MlpFunction, inputs: Mapping[int, Tensor], layer: int, output: Tensor) -> Tensor:
    return mlp(layer, inputs[layer], output)


@contextmanager
def _frozen_attention(model: PreTrainedModel, patterns: dict[nn.Module, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Attention that records its queries and keys in ``patterns``, or takes them from there if they are recorded."""
    global _frozen_patterns
    implementation, _frozen_patterns = model.config._attn_implementation, patterns
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation, _frozen_patterns = implementation, {}


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
    # The eager attention of each architecture has its own softcaps, sinks and grouped queries.
    eager = sys.modules[type(module).__module__].eager_attention_forward
    query, key = _frozen_patterns.setdefault(module, (query.detach(), key.detach()))
    rows = len(value)
    return eager(module, query.expand(rows, -1, -1, -1), key.expand(rows, -1, -1, -1), value, mask, **kwargs)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, eager_mask)
