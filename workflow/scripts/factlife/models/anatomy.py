"""Anatomy: where the parts of a causal language model are, what writes into its residual stream, and hooks on them."""

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
    """What an architecture calls its parts, as attributes; those of Llama where nothing else is said.

    Attributes:
        blocks: of the model, as are the next two.
        embeddings: their outputs add up to what enters the first block; the first embeds tokens.
        final_norm: what the unembedding reads through.
        attention: of a block, as are all others but the projections, which are of ``attention`` and ``mlp``.
        attention_norm: what attention reads through; empty where it reads the residual stream itself.
        attention_post_norm: what attention writes through; empty where it writes into the residual stream itself.
        parallel: attention and MLP of a block read the same; a switch ``use_parallel_residual`` in the config decides
            where there is one.
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
        module: the whole block, whose output is the residual stream after it.
        attention: its output is (batch, position, d_model).
        attention_out: reads heads side by side, (batch, position, n_heads · head_dim).
        mlp: its output is (batch, position, d_model).
        mlp_out: the down-projection, reads (batch, position, d_mlp).
        attention_norm: what attention reads through, or None; where attention and MLP share a norm, ``mlp_norm`` is
            the same module.
        mlp_norm: what the MLP reads through, or None.
        attention_post_norm: what attention writes through, or None.
        mlp_post_norm: what the MLP writes through, or None.
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
        blocks: in the order in which they run.
        embeddings: their outputs add up to what enters the first block; the first embeds tokens.
        final_norm: reads the residual stream after the last block.
        unembedding: reads the final norm; see ``logits`` for what follows it.
        d_mlp: width of what the down-projections read.
        parallel: attention and MLP of a block read the same residual stream.
        post_norm: attention and MLP write through a norm, so that their projections' outputs are not what is added
            to the residual stream, and heads and neurons do not add up to it.
        logit_scale: factor on the unembedding's output.
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
    """Something that adds to the residual stream: the sum of what its modules return.

    Attributes:
        component: ``embedding``, ``attention`` or ``mlp``.
        layer: of the block, or None for the embedding.
        modules: more than one only where positions are embedded too.
    """

    component: str
    layer: int | None
    modules: tuple[nn.Module, ...]


def get_anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the parts of a model.

    Raises:
        ModelError: its architecture is not in ``FAMILIES``.
    """
    config = model.config
    if config.model_type not in MODULE_NAMES:
        raise ModelError(
            f"the anatomy of architecture `{config.model_type}` is not known; there are {', '.join(MODULE_NAMES)}\n"
            "  to add one, add a line to FAMILIES in factlife/models/anatomy.py"
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
    """The weight of a linear map as (out, in): a view, whichever way round the module keeps it."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def residual_writers(parts: Anatomy) -> list[ResidualWriter]:
    """All that writes into the residual stream: the embedding, then attention and MLP of each block."""
    found = [ResidualWriter("embedding", None, parts.embeddings)]
    for layer, block in enumerate(parts.blocks):
        found.append(ResidualWriter("attention", layer, (block.attention_post_norm or block.attention,)))
        found.append(ResidualWriter("mlp", layer, (block.mlp_post_norm or block.mlp,)))
    return found


def decompose_residual(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What each writer adds to the residual stream, for a model in eval mode.

    Args:
        model: of a supported architecture.
        input_ids: (batch, position).
        attention_mask: (batch, position), 0 at padding on either side.
        position_ids: (batch, position); counted from the first token that is not padding if not given.

    Returns:
        What ``writers`` write, (n_writers, batch, position, d_model), and the residual stream before the final norm,
        (batch, position, d_model), which is their sum.
    """
    parts = get_anatomy(model)
    written = residual_writers(parts)
    modules = {(row, i): module for row, writer in enumerate(written) for i, module in enumerate(writer.modules)}
    if position_ids is None:
        position_ids = position_ids_from_mask(attention_mask)
    with capture(modules) as outputs, capture({"final": parts.final_norm}, inputs=True) as inputs:
        model.base_model(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
    sums = [sum(outputs[row, i] for i in range(len(writer.modules))) for row, writer in enumerate(written)]
    return torch.stack(sums), inputs["final"]


def logits_from_residual(parts: Anatomy, residual: Tensor) -> Tensor:
    """The model's logits, (…, vocabulary), from the residual stream after the last block, (…, d_model)."""
    return unembed(parts, parts.final_norm(residual))


def unembed(parts: Anatomy, normed: Tensor) -> Tensor:
    """The model's logits, (…, vocabulary), from what the final norm returns, (…, d_model)."""
    scores = parts.logit_scale * parts.unembedding(normed)
    return scores if parts.logit_cap is None else parts.logit_cap * torch.tanh(scores / parts.logit_cap)


def position_ids_from_mask(attention_mask: Tensor) -> Tensor:
    """Position ids, (batch, position), counted from the first token that is not padding, on either side."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


@contextmanager
def capture(modules: Mapping[Key, nn.Module], *, inputs: bool = False) -> Iterator[dict[Key, Tensor]]:
    """Keep what modules return, or take in, in the last forward pass inside the context.

    The tensors are those of the pass, with their gradients' graph where there is one.
    """
    found: dict[Key, Tensor] = {}
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(patch(module, partial(found.__setitem__, name), inputs=inputs))
        yield found


@contextmanager
def patch(module: nn.Module, fn: Callable[[Tensor], Tensor | None], *, inputs: bool = False) -> Iterator[None]:
    """Put what a function makes of a module's output, or input, in its place inside the context.

    Args:
        module: what else it returns or takes in, as attention does, stays.
        fn: gets the hidden states; where it returns None, they stay. It must not change them in place.
        inputs: of the input instead of the output.
    """

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        whole = isinstance(output, Tensor)
        new = fn(output if whole else output[0])
        return new if whole or new is None else (new, *output[1:])

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = fn(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

    hook = module.register_forward_pre_hook(before, with_kwargs=True) if inputs else module.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()


class _ForwardStopped(Exception):
    """What was wanted of a pass has been read."""


@contextmanager
def stop_after(module: nn.Module) -> Iterator[None]:
    """A forward pass that ends as soon as a module has returned; the rest of the context is left out with it."""

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
