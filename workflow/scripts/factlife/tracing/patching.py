"""Activation patching: many cells of position and layer restored in one pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from factlife.models.anatomy import Anatomy, Block, capture, get_anatomy, patch
from factlife.models.prefix_cache import build_prefix_cache
from factlife.tracing.prompts import TracingError

COMPONENTS = ("residual", "attention", "mlp", "residual_attention_frozen", "residual_mlp_frozen")

# What is restored: the component, one of `residual`, `attention` and `mlp`, and the layer.
Site = tuple[str, int]


class RestoredState(NamedTuple):
    """What is restored in one run: a component at one position, in a window of layers around one.

    Attributes:
        component: one of ``COMPONENTS``. With ``…_frozen``, later layers' attention or MLPs keep, at this position,
            what they wrote in the corrupted run, so that the restored state acts past them (Meng et al. 2022, fig. 3).
        position: of the token.
        layer: of the window's middle.
        window: layers that are restored, as many as there are around the middle.
    """

    component: str
    position: int
    layer: int
    window: int = 1

    def sites(self, n_layers: int) -> tuple[list[Site], list[Site]]:
        """What takes the value of the clean run, and what that of the corrupted run.

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
        """The first block that has to be run: those before it return what they do in the corrupted run."""
        component, layer = self.sites(n_layers)[0][0]
        # What a whole block returns is replaced after it has returned.
        return layer + (component == "residual")


def stack_ids(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Prompts as a tensor, (prompt, position).

    Raises:
        TracingError: they are not equally long.
    """
    if len(lengths := {len(sequence) for sequence in sequences}) > 1:
        raise TracingError(
            f"prompts of {', '.join(map(str, sorted(lengths)))} tokens cannot be patched into each other; "
            "group prompts of equal length"
        )
    return torch.tensor(sequences, dtype=torch.long)


def embed_tokens(model: Any, ids: Tensor) -> Tensor:
    """What the model reads for tokens, (…, d_model): the argument ``inputs_embeds`` of its forward pass."""
    with torch.inference_mode():
        return get_anatomy(model).embeddings[0](ids.to(model.device))


def answer_outcomes(model: Any, inputs: Tensor, answers: Tensor, before: Cache | None = None) -> Tensor:
    """Probability of the first answer, and its logit minus the second's, at the last position.

    Args:
        model: a causal language model.
        inputs: what it reads, (run, position, d_model).
        answers: tokens, (run, 2).
        before: keys and values of the positions before these.

    Returns:
        (run, 2).
    """
    with torch.inference_mode():
        said = model(inputs_embeds=inputs, past_key_values=before, use_cache=before is not None, logits_to_keep=1)
    logits = said.logits[:, -1].float()
    chosen = logits.gather(1, answers)
    probability = (chosen[:, 0] - logits.logsumexp(-1)).exp()
    return torch.stack([probability, chosen[:, 0] - chosen[:, 1]], 1)


def restore_states(
    model: Any,
    clean: Tensor,
    corrupted: Tensor,
    answers: Tensor,
    cells: Sequence[RestoredState],
    *,
    batch_tokens: int = 8192,
) -> Tensor:
    """Outcomes of corrupted runs in which one cell each has the value of the clean run.

    Nothing before a cell, in blocks or in positions, does other than in the corrupted run; hardly any of it is run again.

    Args:
        model: a causal language model.
        clean: what it reads in the clean runs, (run, position, d_model).
        corrupted: what it reads in the corrupted runs, as many and as long.
        answers: tokens whose outcomes are measured, (run, 2).
        cells: the same for every run.
        batch_tokens: tokens in a forward pass; no outcome depends on it.

    Returns:
        (run, cell, 2), as ``outcomes`` gives them.

    Raises:
        TracingError: a cell names a layer that does not exist.
    """
    parts = get_anatomy(model)
    rows = max(1, batch_tokens // clean.shape[1])
    answers, found = answers.to(model.device), torch.zeros(len(clean), len(cells), 2)
    passes = _passes(cells, parts.n_layers, len(clean), clean.shape[1])
    modules = _modules(parts)
    for runs in torch.arange(len(clean)).split(max(1, rows // max(len(numbers) for _, _, numbers in passes))):
        states = [_Run(model, inputs[runs], modules) for inputs in (clean, corrupted)]
        for first, position, numbers in passes:
            for some in torch.tensor(numbers).split(rows):
                writes = _writes([cells[number] for number in some], parts.n_layers)
                with ExitStack() as hooks:
                    hooks.enter_context(_skipped(parts.blocks[:first], states[1], position, len(some)))
                    for run, sites in zip(states, writes, strict=True):
                        for site, taken in sites.items():
                            value = run.states[site][:, position]
                            hooks.enter_context(patch(modules[site], partial(_write, value=value, cells=taken)))
                    measured = answer_outcomes(
                        model,
                        corrupted[runs, position:].repeat_interleave(len(some), 0),
                        answers[runs].repeat_interleave(len(some), 0),
                        build_prefix_cache(states[1].keys_values, position, len(some)),
                    )
                found[runs[:, None], some] = measured.unflatten(0, (len(runs), -1)).cpu()
    return found


# Tokens below which a pass through a large model is no faster, because all its weights are read whatever there is.
_ENOUGH = 256


def _passes(cells: Sequence[RestoredState], n_layers: int, runs: int, length: int) -> list[tuple[int, int, list[int]]]:
    """Cells of one position that run together from a block on: those that begin there, and at later ones while few."""
    begins: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, cell in enumerate(cells):
        begins[cell.position, cell.start(n_layers)].append(number)
    together: list[tuple[int, int, list[int]]] = []
    for position, start in sorted(begins):
        if not together or together[-1][1] != position or len(together[-1][2]) * runs * (length - position) >= _ENOUGH:
            together.append((start, position, []))
        together[-1][2].extend(begins[position, start])
    return together


class _Run:
    """An ordinary run: what is written at each site, and keys and values of each layer.

    Attributes:
        states: by site, (run, position, d_model).
        outputs: of each block, as it returns them.
        keys_values: of each layer, (run, head, position, head_dim) both.
    """

    def __init__(self, model: Any, inputs: Tensor, modules: dict[Site, torch.nn.Module]) -> None:
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
def _skipped(blocks: Sequence[Block], run: _Run, position: int, n_cells: int) -> Iterator[None]:
    """Blocks at the model's beginning that return what the last of them did in a run, from a position on."""
    if not blocks:
        yield
        return
    output = run.outputs[len(blocks) - 1]
    whole = isinstance(output, Tensor)
    hidden = (output if whole else output[0])[:, position:].repeat_interleave(n_cells, 0)
    given = hidden if whole else (hidden, *output[1:])
    for block in blocks:
        block.module.forward = lambda *_, **__: given
    try:
        yield
    finally:
        for block in blocks:
            del block.module.forward


def _modules(parts: Anatomy) -> dict[Site, torch.nn.Module]:
    found: dict[Site, torch.nn.Module] = {}
    for layer, block in enumerate(parts.blocks):
        found["residual", layer] = block.module
        found["attention", layer] = block.attention_post_norm or block.attention
        found["mlp", layer] = block.mlp_post_norm or block.mlp
    return found


def _writes(cells: Sequence[RestoredState], n_layers: int) -> list[dict[Site, Tensor]]:
    """By site, numbers of the cells that write there: clean values, and corrupted ones."""
    writes: list[dict[Site, list[int]]] = [defaultdict(list), defaultdict(list)]
    for number, cell in enumerate(cells):
        for found, sites in zip(writes, cell.sites(n_layers), strict=True):
            for site in sites:
                found[site].append(number)
    return [{site: torch.tensor(numbers) for site, numbers in found.items()} for found in writes]


def _write(hidden: Tensor, value: Tensor, cells: Tensor) -> Tensor:
    """Hidden states, (run · cell, position, d_model), with a value, (run, d_model), at the first position of some cells."""
    hidden = hidden.clone().unflatten(0, (len(value), -1))
    hidden[:, cells, 0] = value[:, None]
    return hidden.flatten(0, 1)
