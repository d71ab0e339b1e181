"""Activation patching: many states, each at one position and layer, are restored in one pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from factlife.models.anatomy import Anatomy, Block, capture, get_anatomy, patch
from factlife.models.prefix_cache import build_prefix_cache
from factlife.tracing.prompts import TracingError

COMPONENTS = ("residual", "attention", "mlp", "residual_attention_frozen", "residual_mlp_frozen")

# A place in the network: the component, one of `residual`, `attention` and `mlp`, and the layer.
Site = tuple[str, int]


class RestoredState(NamedTuple):
    """State that one run restores: a component at one position, in a window of layers.

    Attributes:
        component: one of ``COMPONENTS``. With ``…_frozen``, attention or MLPs of later layers keep their output of the
            corrupted run at this position, so the restored state cannot act through them (Meng et al. 2022, fig. 3).
        position: token position.
        layer: middle layer of the window.
        window: number of layers to restore.
    """

    component: str
    position: int
    layer: int
    window: int = 1

    def sites(self, n_layers: int) -> tuple[list[Site], list[Site]]:
        """Sites that take their value from the clean run, and sites that take it from the corrupted run.

        Raises:
            TracingError: the layer does not exist.
        """
        if not 0 <= self.layer < n_layers:
            raise TracingError(f"layer {self.layer} does not exist: the model has layers 0 to {n_layers - 1}")
        component, _, frozen = self.component.removesuffix("_frozen").partition("_")
        first = max(0, self.layer - self.window // 2)
        last = min(n_layers, self.layer + (self.window + 1) // 2)
        later = range(last, n_layers) if frozen else ()
        return [(component, layer) for layer in range(first, last)], [(frozen, layer) for layer in later]

    def start(self, n_layers: int) -> int:
        """First block that must run; earlier blocks return their output of the corrupted run."""
        component, layer = self.sites(n_layers)[0][0]
        # The residual stream is replaced after its block has run.
        return layer + (component == "residual")


def stack_ids(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Prompts as a tensor, (prompt, position).

    Raises:
        TracingError: the prompts differ in length.
    """
    if len(lengths := {len(sequence) for sequence in sequences}) > 1:
        raise TracingError(
            f"prompts of {', '.join(map(str, sorted(lengths)))} tokens cannot be patched into each other; "
            "group prompts of equal length"
        )
    return torch.tensor(sequences, dtype=torch.long)


def embed_tokens(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Embeddings of tokens, (…, d_model), as the forward pass takes them in ``inputs_embeds``."""
    with torch.inference_mode():
        return get_anatomy(model).embeddings[0](ids.to(model.device))


def answer_outcomes(
    model: PreTrainedModel, inputs: Tensor, answers: Tensor, past_key_values: Cache | None = None
) -> Tensor:
    """Probability of the first answer, and its logit minus the second answer's logit, at the last position.

    Args:
        model: a causal language model.
        inputs: embeddings, (run, position, d_model).
        answers: tokens of the two answers, (run, 2).
        past_key_values: keys and values of earlier positions.

    Returns:
        (run, 2).
    """
    with torch.inference_mode():
        output = model(
            inputs_embeds=inputs,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            logits_to_keep=1,
        )
    logits = output.logits[:, -1].float()
    answer_logits = logits.gather(1, answers)
    probability = (answer_logits[:, 0] - logits.logsumexp(-1)).exp()
    return torch.stack([probability, answer_logits[:, 0] - answer_logits[:, 1]], 1)


def restore_states(
    model: PreTrainedModel,
    clean: Tensor,
    corrupted: Tensor,
    answers: Tensor,
    restored: Sequence[RestoredState],
    *,
    batch_tokens: int = 8192,
) -> Tensor:
    """Outcomes of corrupted runs, each with one state restored to its value in the clean run.

    Blocks and positions before the restored state equal the corrupted run, so their results are mostly reused.

    Args:
        model: a causal language model.
        clean: embeddings of the clean runs, (run, position, d_model).
        corrupted: embeddings of the corrupted runs, same shape.
        answers: tokens of the two answers, (run, 2).
        restored: states to restore in every run.
        batch_tokens: tokens per forward pass; does not change the outcomes.

    Returns:
        (run, state, 2), as ``answer_outcomes`` returns them.

    Raises:
        TracingError: a state names a layer that does not exist.
    """
    parts = get_anatomy(model)
    rows = max(1, batch_tokens // clean.shape[1])
    answers, results = answers.to(model.device), torch.zeros(len(clean), len(restored), 2)
    passes = _passes(restored, parts.n_layers, len(clean), clean.shape[1])
    modules = _modules(parts)
    for runs in torch.arange(len(clean)).split(max(1, rows // max(len(indices) for _, _, indices in passes))):
        cached_runs = [_CachedRun(model, inputs[runs], modules) for inputs in (clean, corrupted)]
        for first, position, indices in passes:
            for chunk in torch.tensor(indices).split(rows):
                writes = _writes([restored[i] for i in chunk], parts.n_layers)
                with ExitStack() as hooks:
                    hooks.enter_context(_skipped(parts.blocks[:first], cached_runs[1], position, len(chunk)))
                    for run, sites in zip(cached_runs, writes, strict=True):
                        for site, state_indices in sites.items():
                            value = run.states[site][:, position]
                            hooks.enter_context(
                                patch(modules[site], partial(_write, value=value, state_indices=state_indices))
                            )
                    outcomes = answer_outcomes(
                        model,
                        corrupted[runs, position:].repeat_interleave(len(chunk), 0),
                        answers[runs].repeat_interleave(len(chunk), 0),
                        build_prefix_cache(cached_runs[1].keys_values, position, len(chunk)),
                    )
                results[runs[:, None], chunk] = outcomes.unflatten(0, (len(runs), -1)).cpu()
    return results


# Tokens below which a pass through a large model gets no faster, because reading its weights dominates.
_MIN_PASS_TOKENS = 256


def _passes(states: Sequence[RestoredState], n_layers: int, runs: int, length: int) -> list[tuple[int, int, list[int]]]:
    """States of one position that share a pass: those with the same first block, plus later ones while the pass is small."""
    by_start: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, state in enumerate(states):
        by_start[state.position, state.start(n_layers)].append(i)
    passes: list[tuple[int, int, list[int]]] = []
    for position, start in sorted(by_start):
        if (
            not passes
            or passes[-1][1] != position
            or len(passes[-1][2]) * runs * (length - position) >= _MIN_PASS_TOKENS
        ):
            passes.append((start, position, []))
        passes[-1][2].extend(by_start[position, start])
    return passes


class _CachedRun:
    """An unpatched run: the output at each site, and keys and values of each layer.

    Attributes:
        states: output at each site, (run, position, d_model).
        outputs: return value of each block.
        keys_values: keys and values of each layer, each (run, head, position, head_dim).
    """

    def __init__(self, model: PreTrainedModel, inputs: Tensor, modules: dict[Site, torch.nn.Module]) -> None:
        blocks = get_anatomy(model).blocks
        self.outputs: list[Any] = []
        cache = DynamicCache()
        with ExitStack() as hooks:
            for block in blocks:
                keep = block.module.register_forward_hook(lambda _, __, output: self.outputs.append(output))
                hooks.callback(keep.remove)
            self.states = hooks.enter_context(capture(modules))
            with torch.inference_mode():
                model.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
        self.keys_values = [(layer.keys, layer.values) for layer in cache.layers]


@contextmanager
def _skipped(blocks: Sequence[Block], run: _CachedRun, position: int, n_states: int) -> Iterator[None]:
    """Make the first blocks return, from a position on, what the last of them returned in a cached run."""
    if not blocks:
        yield
        return
    output = run.outputs[len(blocks) - 1]
    is_tensor = isinstance(output, Tensor)
    hidden = (output if is_tensor else output[0])[:, position:].repeat_interleave(n_states, 0)
    block_output = hidden if is_tensor else (hidden, *output[1:])
    for block in blocks:
        block.module.forward = lambda *_, **__: block_output
    try:
        yield
    finally:
        for block in blocks:
            del block.module.forward


def _modules(parts: Anatomy) -> dict[Site, torch.nn.Module]:
    modules: dict[Site, torch.nn.Module] = {}
    for layer, block in enumerate(parts.blocks):
        modules["residual", layer] = block.module
        modules["attention", layer] = block.attention_post_norm or block.attention
        modules["mlp", layer] = block.mlp_post_norm or block.mlp
    return modules


def _writes(states: Sequence[RestoredState], n_layers: int) -> list[dict[Site, Tensor]]:
    """By site, indices of the states that write clean values there, and of those that write corrupted values."""
    writes: list[dict[Site, list[int]]] = [defaultdict(list), defaultdict(list)]
    for i, state in enumerate(states):
        for by_site, sites in zip(writes, state.sites(n_layers), strict=True):
            for site in sites:
                by_site[site].append(i)
    return [{site: torch.tensor(indices) for site, indices in by_site.items()} for by_site in writes]


def _write(hidden: Tensor, value: Tensor, state_indices: Tensor) -> Tensor:
    """Write a value, (run, d_model), at the first position of some states into hidden, (run · state, position, d_model)."""
    hidden = hidden.clone().unflatten(0, (len(value), -1))
    hidden[:, state_indices, 0] = value[:, None]
    return hidden.flatten(0, 1)
