"""The parts of a causal language model, the modules that write to its residual stream, and hooks on them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from factlife.models.load import ModelError

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class ModuleNames:
    """Attribute names of an architecture's modules. The defaults are those of Llama.

    Attributes:
        blocks: attribute of the model.
        embeddings: attributes of the model; their outputs sum to the first block's input. The first embeds tokens.
        final_norm: attribute of the model; the norm before the unembedding.
        attention: attribute of a block.
        attention_out: attribute of ``attention``.
        mlp: attribute of a block.
        mlp_out: attribute of ``mlp``.
        attention_norm: norm before attention, an attribute of a block; empty if there is none.
        mlp_norm: norm before the MLP; empty if there is none.
        attention_post_norm: norm after attention; empty if there is none.
        mlp_post_norm: norm after the MLP; empty if there is none.
        parallel: attention and MLP of a block read the same residual stream. If the config has
            ``use_parallel_residual``, it takes precedence.
    """

    blocks: str = "model.layers"
    embeddings: tuple[str, ...] = ("model.embed_tokens",)
    final_norm: str = "model.norm"
    attention: str = "self_attn"
    attention_out: str = "o_proj"
    mlp: str = "mlp"
    mlp_out: str = "down_proj"
    attention_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    attention_post_norm: str = ""
    mlp_post_norm: str = ""
    parallel: bool = False


_GEMMA2_NAMES = ModuleNames(
    mlp_norm="pre_feedforward_layernorm",
    attention_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)

# By `model_type` of the config. To add one, add a line here and one to `CONFIGS` in tests/models/test_anatomy.py.
MODULE_NAMES = {
    "cohere2": ModuleNames(mlp_norm="input_layernorm", parallel=True),
    "gemma": ModuleNames(),
    "gemma2": _GEMMA2_NAMES,
    "gemma3_text": _GEMMA2_NAMES,
    "gpt2": ModuleNames(
        blocks="transformer.h",
        embeddings=("transformer.wte", "transformer.wpe"),
        final_norm="transformer.ln_f",
        attention="attn",
        attention_out="c_proj",
        mlp_out="c_proj",
        attention_norm="ln_1",
        mlp_norm="ln_2",
    ),
    "gpt_neox": ModuleNames(
        blocks="gpt_neox.layers",
        embeddings=("gpt_neox.embed_in",),
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
        attention_out="dense",
        mlp_out="dense_4h_to_h",
    ),
    "gptj": ModuleNames(
        blocks="transformer.h",
        embeddings=("transformer.wte",),
        final_norm="transformer.ln_f",
        attention="attn",
        attention_out="out_proj",
        mlp_out="fc_out",
        attention_norm="ln_1",
        mlp_norm="ln_1",
        parallel=True,
    ),
    "llama": ModuleNames(),
    "mistral": ModuleNames(),
    "olmo2": ModuleNames(
        attention_norm="",
        mlp_norm="",
        attention_post_norm="post_attention_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
    ),
    "phi": ModuleNames(
        final_norm="model.final_layernorm",
        attention_out="dense",
        mlp_out="fc2",
        mlp_norm="input_layernorm",
        parallel=True,
    ),
    "qwen2": ModuleNames(),
    "qwen3": ModuleNames(),
}


@dataclass(frozen=True)
class Block:
    """The parts of one block.

    Attributes:
        module: the block itself; its output is the residual stream after the block.
        attention: output (batch, position, d_model).
        attention_out: the output projection; input (batch, position, n_heads · head_dim), heads concatenated.
        mlp: output (batch, position, d_model).
        mlp_out: the down-projection; input (batch, position, d_mlp).
        attention_norm: norm before attention, or None. If attention and MLP share a norm, this is ``mlp_norm``.
        mlp_norm: norm before the MLP, or None.
        attention_post_norm: norm after attention, or None.
        mlp_post_norm: norm after the MLP, or None.
    """

    module: nn.Module
    attention: nn.Module
    attention_out: nn.Module
    mlp: nn.Module
    mlp_out: nn.Module
    attention_norm: nn.Module | None
    mlp_norm: nn.Module | None
    attention_post_norm: nn.Module | None
    mlp_post_norm: nn.Module | None


@dataclass(frozen=True)
class Anatomy:
    """The parts and sizes of a causal language model.

    Attributes:
        blocks: in execution order.
        embeddings: their outputs sum to the first block's input; the first embeds tokens.
        final_norm: applied to the residual stream after the last block.
        unembedding: applied to the output of ``final_norm``; ``unembed`` also scales and caps the logits.
        d_mlp: input width of the down-projections.
        parallel: attention and MLP of a block read the same residual stream.
        post_norm: a norm follows attention and MLP. The residual stream is then not a sum of the outputs of heads and
            neurons.
        logit_scale: factor applied to the unembedding's output.
        logit_cap: c in c · tanh(logits / c), or None.
    """

    blocks: tuple[Block, ...]
    embeddings: tuple[nn.Module, ...]
    final_norm: nn.Module
    unembedding: nn.Module
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_mlp: int
    parallel: bool
    post_norm: bool
    logit_scale: float
    logit_cap: float | None


class ResidualWriter(NamedTuple):
    """A component that writes to the residual stream; its output is the sum of its modules' outputs.

    Attributes:
        component: ``embedding``, ``attention`` or ``mlp``.
        layer: index of the block; None for the embedding.
        modules: several only if the model also embeds positions.
    """

    component: str
    layer: int | None
    modules: tuple[nn.Module, ...]


def get_anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the parts of a model.

    Raises:
        ModelError: the architecture is not in ``MODULE_NAMES``.
    """
    config = model.config
    if config.model_type not in MODULE_NAMES:
        raise ModelError(
            f"architecture `{config.model_type}` is not supported; supported are {', '.join(MODULE_NAMES)}\n"
            "  to add one, add a line to MODULE_NAMES in factlife/models/anatomy.py"
        )
    family = MODULE_NAMES[config.model_type]
    blocks = tuple(_block(module, family) for module in model.get_submodule(family.blocks))
    n_heads = config.num_attention_heads
    return Anatomy(
        blocks=blocks,
        embeddings=tuple(model.get_submodule(name) for name in family.embeddings),
        final_norm=model.get_submodule(family.final_norm),
        unembedding=model.get_output_embeddings(),
        n_layers=len(blocks),
        d_model=config.hidden_size,
        n_heads=n_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads,
        head_dim=weight_matrix(blocks[0].attention_out).shape[1] // n_heads,
        d_mlp=weight_matrix(blocks[0].mlp_out).shape[1],
        parallel=getattr(config, "use_parallel_residual", family.parallel),
        post_norm=bool(family.attention_post_norm),
        logit_scale=getattr(config, "logit_scale", None) or 1.0,
        logit_cap=getattr(config, "final_logit_softcapping", None),
    )


def weight_matrix(module: nn.Module) -> Tensor:
    """A linear map's weight as an (out, in) view, also for modules that store the transpose."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def residual_writers(parts: Anatomy) -> list[ResidualWriter]:
    """All components that write to the residual stream: the embedding, then attention and MLP of each block."""
    writers = [ResidualWriter("embedding", None, parts.embeddings)]
    for layer, block in enumerate(parts.blocks):
        writers.append(ResidualWriter("attention", layer, (block.attention_post_norm or block.attention,)))
        writers.append(ResidualWriter("mlp", layer, (block.mlp_post_norm or block.mlp,)))
    return writers


def decompose_residual(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The contribution of each component to the residual stream, for a model in eval mode.

    Args:
        model: a model of a supported architecture.
        input_ids: (batch, position).
        attention_mask: (batch, position), 0 at padding, which may be on either side.
        position_ids: (batch, position); by default counted from the first token that is not padding.

    Returns:
        The outputs of ``residual_writers``, (n_writers, batch, position, d_model), and their sum, which is the residual
        stream before the final norm, (batch, position, d_model).
    """
    parts = get_anatomy(model)
    writers = residual_writers(parts)
    modules = {(row, i): module for row, writer in enumerate(writers) for i, module in enumerate(writer.modules)}
    if position_ids is None:
        position_ids = position_ids_from_mask(attention_mask)
    with capture(modules) as outputs, capture({"final": parts.final_norm}, inputs=True) as inputs:
        model.base_model(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
    sums = [sum(outputs[row, i] for i in range(len(writer.modules))) for row, writer in enumerate(writers)]
    return torch.stack(sums), inputs["final"]


def logits_from_residual(parts: Anatomy, residual: Tensor) -> Tensor:
    """The model's logits, (…, vocabulary), from the residual stream after the last block, (…, d_model)."""
    return unembed(parts, parts.final_norm(residual))


def unembed(parts: Anatomy, normed: Tensor) -> Tensor:
    """The model's logits, (…, vocabulary), from the final norm's output, (…, d_model)."""
    scores = parts.logit_scale * parts.unembedding(normed)
    return scores if parts.logit_cap is None else parts.logit_cap * torch.tanh(scores / parts.logit_cap)


def position_ids_from_mask(attention_mask: Tensor) -> Tensor:
    """Position ids, (batch, position), counted from the first token that is not padding, which may be on either side."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


@contextmanager
def capture(modules: Mapping[Key, nn.Module], *, inputs: bool = False) -> Iterator[dict[Key, Tensor]]:
    """Record the outputs, or inputs, of modules in the last forward pass inside the context.

    The tensors keep their autograd graph.
    """
    activations: dict[Key, Tensor] = {}
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(patch(module, partial(activations.__setitem__, name), inputs=inputs))
        yield activations


@contextmanager
def patch(module: nn.Module, fn: Callable[[Tensor], Tensor | None], *, inputs: bool = False) -> Iterator[None]:
    """Replace a module's output, or input, by a function of it inside the context.

    Args:
        module: the module. Its other outputs or inputs, as attention has, stay as they are.
        fn: receives the hidden states and returns new ones, or None to keep them. It must not change them in place.
        inputs: replace the input instead of the output.
    """

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        is_tensor = isinstance(output, Tensor)
        replacement = fn(output if is_tensor else output[0])
        return replacement if is_tensor or replacement is None else (replacement, *output[1:])

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        replacement = fn(args[0] if args else kwargs["hidden_states"])
        if replacement is None:
            return None
        return ((replacement, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": replacement})

    hook = module.register_forward_pre_hook(before, with_kwargs=True) if inputs else module.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()


class _ForwardStopped(Exception):
    """Raised to stop a forward pass early."""


@contextmanager
def stop_after(module: nn.Module) -> Iterator[None]:
    """Stop the forward pass after a module has run; the remaining statements of the context are skipped."""

    def end(_: Tensor) -> None:
        raise _ForwardStopped

    with suppress(_ForwardStopped), patch(module, end):
        yield


def _block(module: nn.Module, family: ModuleNames) -> Block:
    def part(name: str) -> nn.Module | None:
        return module.get_submodule(name) if name else None

    return Block(
        module=module,
        attention=module.get_submodule(family.attention),
        attention_out=module.get_submodule(f"{family.attention}.{family.attention_out}"),
        mlp=module.get_submodule(family.mlp),
        mlp_out=module.get_submodule(f"{family.mlp}.{family.mlp_out}"),
        attention_norm=part(family.attention_norm),
        mlp_norm=part(family.mlp_norm),
        attention_post_norm=part(family.attention_post_norm),
        mlp_post_norm=part(family.mlp_post_norm),
    )
