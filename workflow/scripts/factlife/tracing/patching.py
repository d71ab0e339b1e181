"""Activation patching: many cells of position and layer restored in one pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factlife.models.anatomy import Anatomy, Block, anatomy, capture, patch
from factlife.tracing.prompts import TracingError

COMPONENTS = ("residual", "attention", "mlp", "residual_attention_frozen", "residual_mlp_frozen")

# What is restored: the component, one of `residual`, `attention` and `mlp`, and the layer.
Site = tuple[str, int]


class Cell(NamedTuple):
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


def stack(sequences: Sequence[Sequence[int]]) -> Tensor:
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


def embed(model: Any, ids: Tensor) -> Tensor:
    """What the model reads for tokens, (…, d_model): the argument ``inputs_embeds`` of its forward pass."""
    with torch.inference_mode():
        return anatomy(model).embeddings[0](ids.to(model.device))


def outcomes(model: Any, inputs: Tensor, answers: Tensor) -> Tensor:
    """Probability of the first answer, and its logit minus the second's, at the last position.

    Args:
        model: a causal language model.
        inputs: what it reads, (run, position, d_model).
        answers: tokens, (run, 2).

    Returns:
        (run, 2).
    """
    with torch.inference_mode():
        logits = model(inputs_embeds=inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
    chosen = logits.gather(1, answers)
    probability = (chosen[:, 0] - logits.logsumexp(-1)).exp()
    return torch.stack([probability, chosen[:, 0] - chosen[:, 1]], 1)


def restore(
    model: Any, clean: Tensor, corrupted: Tensor, answers: Tensor, cells: Sequence[Cell], *, batch_tokens: int = 8192
) -> Tensor:
    """Outcomes of corrupted runs in which one cell each has the value of the clean run.

    Blocks before the first that is written to do what they do in the corrupted run, and are not run again.

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
    parts = anatomy(model)
    modules = _modules(parts)
    rows = max(1, batch_tokens // clean.shape[1])
    answers, found = answers.to(model.device), torch.zeros(len(clean), len(cells), 2)
    # Cells together whose first block that does not do as in the corrupted run is the same.
    first = torch.tensor([cell.start(parts.n_layers) for cell in cells])
    chunks = [chunk for low in first.unique() for chunk in (first == low).nonzero()[:, 0].split(rows)]
    for numbers in chunks:
        restored, frozen = _writes([cells[number] for number in numbers], parts.n_layers)
        below = parts.blocks[: first[numbers[0]]]
        for runs in torch.arange(len(clean)).split(max(1, rows // len(numbers))):
            sources = [
                (writes, _states(model, inputs[runs], {site: modules[site] for site in writes}))
                for writes, inputs in ((restored, clean), (frozen, corrupted))
            ]
            with ExitStack() as hooks:
                hooks.enter_context(_skipped(model, below, corrupted[runs], len(numbers)))
                for writes, states in sources:
                    for site, places in writes.items():
                        hooks.enter_context(patch(modules[site], _writer(states[site], *places, len(numbers))))
                repeated = corrupted[runs].repeat_interleave(len(numbers), 0)
                measured = outcomes(model, repeated, answers[runs].repeat_interleave(len(numbers), 0))
            found[runs[:, None], numbers] = measured.unflatten(0, (len(runs), -1)).cpu()
    return found


@contextmanager
def _skipped(model: Any, blocks: Sequence[Block], inputs: Tensor, n_cells: int) -> Iterator[None]:
    """Blocks at the model's beginning that return what the last of them returns for these inputs, without running."""
    if not blocks:
        yield
        return
    outputs = []
    hook = blocks[-1].module.register_forward_hook(lambda _, __, output: outputs.append(output))
    with torch.inference_mode():
        model.base_model(inputs_embeds=inputs, use_cache=False)
    hook.remove()
    whole = isinstance(outputs[0], Tensor)
    hidden = (outputs[0] if whole else outputs[0][0]).repeat_interleave(n_cells, 0)
    given = hidden if whole else (hidden, *outputs[0][1:])
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


def _writes(cells: Sequence[Cell], n_layers: int) -> list[dict[Site, tuple[Tensor, Tensor]]]:
    """By site, numbers and positions of the cells that write there: clean values, and corrupted ones."""
    writes: list[dict[Site, list[tuple[int, int]]]] = [defaultdict(list), defaultdict(list)]
    for number, cell in enumerate(cells):
        for found, sites in zip(writes, cell.sites(n_layers), strict=True):
            for site in sites:
                found[site].append((number, cell.position))
    return [{site: tuple(torch.tensor(rows).T) for site, rows in found.items()} for found in writes]


def _states(model: Any, inputs: Tensor, modules: dict[Site, torch.nn.Module]) -> dict[Site, Tensor]:
    if not modules:
        return {}
    with torch.inference_mode(), capture(modules) as states:
        model.base_model(inputs_embeds=inputs, use_cache=False)
    return dict(states)


def _writer(state: Tensor, cells: Tensor, positions: Tensor, n_cells: int) -> Callable[[Tensor], Tensor]:
    return partial(_write, state=state, cells=cells, positions=positions, n_cells=n_cells)


def _write(hidden: Tensor, state: Tensor, cells: Tensor, positions: Tensor, n_cells: int) -> Tensor:
    """Hidden states, (run · cell, position, d_model), with those of ``state``, (run, position, d_model), in some places."""
    hidden = hidden.clone().unflatten(0, (-1, n_cells))
    hidden[:, cells, positions] = state[:, positions]
    return hidden.flatten(0, 1)
