"""UltraEdit (Gu et al. 2025, 2505.14679): changes from what linear maps read and the gradient of what they return."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from factlife.config.editing import UltraEdit
from factlife.editing.editable import Deltas, EditableModel, to_weight_layout
from factlife.editing.editors.tuning import pad_sequences, training_sequences
from factlife.editing.requests import EditError
from factlife.editing.solver import UpdateCost, solve_update
from factlife.models.anatomy import capture


@dataclass
class RunningStatistics:
    """Mean and variance over all batches so far (Chan et al. 1979): lifelong normalisation.

    Attributes:
        count: rows seen.
        mean: of each column, (columns,).
        squares: sums of squared distances from the mean, (columns,).
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> RunningStatistics:
        """Of one batch, (rows, columns)."""
        return cls(len(rows), rows.mean(0), ((rows - rows.mean(0)) ** 2).sum(0))

    def join(self, other: RunningStatistics) -> RunningStatistics:
        """With another batch."""
        count, apart = self.count + other.count, other.mean - self.mean
        mean = self.mean + apart * other.count / count
        squares = self.squares + other.squares + apart**2 * self.count * other.count / count
        return RunningStatistics(count, mean, squares)

    def standardised(self, rows: Tensor) -> Tensor:
        """Rows less the mean, over the standard deviation."""
        return (rows - self.mean) / ((self.squares / self.count).sqrt() + 1e-7)


def edit(
    target: EditableModel, requests: pd.DataFrame, settings: UltraEdit, memory: dict[str, RunningStatistics]
) -> Deltas:
    """Δ = V Kᵀ (K Kᵀ + ρ I)⁻¹, the ridge solution of Δ K = V, with V = -η ‖k̂‖² ĝ for every answer token.

    K holds what a map reads where the answers' tokens are predicted, ĝ the gradient of their loss by what it returns; hats
    are standardised over all batches so far. In relative units η is ``rate`` times the root mean square of what the map
    returns there over the keys' width, so that V is about as long, and ρ is ``ridge`` times the keys' mean squared entry.

    Args:
        target: the model.
        requests: usable ones.
        settings: which maps, η and ρ.
        memory: statistics of each map over earlier batches; changes in place.
    """
    modules = _modules(target, settings)
    ids, labels, mask = pad_sequences(
        training_sequences(target, requests), target.tokenizer.pad_token_id or 0, target.model.device
    )
    here = labels >= 0
    with capture(modules, inputs=True) as read, capture(modules) as returned:
        logits = target.model(ids, attention_mask=mask, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[here], labels[here], reduction="sum")
    gradients = torch.autograd.grad(loss, [returned[name] for name in modules])
    deltas: Deltas = {}
    for (name, module), gradient in zip(modules.items(), gradients, strict=True):
        keys, slopes = read[name][here].detach().double(), gradient[here].double()
        both, width = torch.cat([keys, slopes], 1), keys.shape[1]
        now = RunningStatistics.of(both)
        memory[name] = memory[name].join(now) if name in memory else now
        normed, direction = memory[name].standardised(both).split([width, slopes.shape[1]], 1)
        rate, ridge = settings.learning_rate, settings.ridge
        if settings.units == "relative":
            rate *= returned[name][here].detach().double().square().mean().sqrt().item() / width
            ridge *= keys.square().mean().item()
        values = -rate * normed.square().sum(1, keepdim=True) * direction
        free = UpdateCost(torch.eye(width, dtype=torch.float64, device=keys.device))
        deltas[f"{name}.weight"] = to_weight_layout(module, solve_update(values.T, keys.T, free, ridge))
    return deltas


def _modules(target: EditableModel, settings: UltraEdit) -> dict[str, nn.Module]:
    """The linear maps that are changed, by name."""
    if settings.modules:
        known = dict(target.model.named_modules())
        for name in settings.modules:
            if name not in known:
                raise EditError(
                    f"the model has no linear map {name!r}; change `modules`, or empty it and give `layers`"
                )
        return {name: known[name] for name in settings.modules}
    names = [target.weight_name(target.layer(layer)).removesuffix(".weight") for layer in settings.layers]
    return {name: target.model.get_submodule(name) for name in names}
