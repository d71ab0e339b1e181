"""UltraEdit (Gu et al. 2025, 2505.14679): changes from the inputs of linear maps and the gradients of their outputs."""

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
        count: number of rows.
        mean: of each column, (columns,).
        squares: sums of squared distances from the mean, (columns,).
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> RunningStatistics:
        """Statistics of one batch, (rows, columns)."""
        return cls(len(rows), rows.mean(0), ((rows - rows.mean(0)) ** 2).sum(0))

    def join(self, statistics: RunningStatistics) -> RunningStatistics:
        """Statistics of this batch and another."""
        count, difference = self.count + statistics.count, statistics.mean - self.mean
        mean = self.mean + difference * statistics.count / count
        squares = self.squares + statistics.squares + difference**2 * self.count * statistics.count / count
        return RunningStatistics(count, mean, squares)

    def standardise(self, rows: Tensor) -> Tensor:
        """Rows minus the mean, divided by the standard deviation."""
        return (rows - self.mean) / ((self.squares / self.count).sqrt() + 1e-7)


def edit(
    target: EditableModel, requests: pd.DataFrame, settings: UltraEdit, memory: dict[str, RunningStatistics]
) -> Deltas:
    """Δ = V Kᵀ (K Kᵀ + ρ I)⁻¹, the ridge solution of Δ K = V, with V = -η ‖k̂‖² ĝ for every answer token.

    K holds the inputs of a map at the positions that predict answer tokens, ĝ the gradients of the loss with respect to its
    outputs there; hats are standardised over all batches so far. In relative units η is ``learning_rate`` times the root
    mean square of the map's outputs there divided by the key dimension, so that V has a similar norm, and ρ is ``ridge``
    times the mean square of the keys.

    Args:
        target: the model.
        requests: usable ones.
        settings: the maps, η and ρ.
        memory: statistics of each map over earlier batches; changes in place.
    """
    modules = _edited_modules(target, settings)
    sequences = training_sequences(target, requests)
    ids, labels, mask = pad_sequences(sequences, target.tokenizer.pad_token_id or 0, target.model.device)
    is_answer = labels >= 0
    with capture(modules, inputs=True) as inputs, capture(modules) as outputs:
        logits = target.model(ids, attention_mask=mask, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[is_answer], labels[is_answer], reduction="sum")
    gradients = torch.autograd.grad(loss, [outputs[name] for name in modules])
    deltas: Deltas = {}
    for (name, module), gradient in zip(modules.items(), gradients, strict=True):
        keys, answer_gradients = inputs[name][is_answer].detach().double(), gradient[is_answer].double()
        rows, d_key = torch.cat([keys, answer_gradients], 1), keys.shape[1]
        statistics = RunningStatistics.of(rows)
        memory[name] = memory[name].join(statistics) if name in memory else statistics
        key_hat, gradient_hat = memory[name].standardise(rows).split([d_key, answer_gradients.shape[1]], 1)
        learning_rate, ridge = settings.learning_rate, settings.ridge
        if settings.units == "relative":
            learning_rate *= outputs[name][is_answer].detach().double().square().mean().sqrt().item() / d_key
            ridge *= keys.square().mean().item()
        values = -learning_rate * key_hat.square().sum(1, keepdim=True) * gradient_hat
        cost = UpdateCost(torch.eye(d_key, dtype=torch.float64, device=keys.device))
        deltas[f"{name}.weight"] = to_weight_layout(module, solve_update(values.T, keys.T, cost, ridge))
    return deltas


def _edited_modules(target: EditableModel, settings: UltraEdit) -> dict[str, nn.Module]:
    """The linear maps to edit, by name."""
    if settings.modules:
        modules = dict(target.model.named_modules())
        for name in settings.modules:
            if name not in modules:
                raise EditError(f"the model has no linear map {name!r}; change `modules`, or empty it and set `layers`")
        return {name: modules[name] for name in settings.modules}
    layers = [target.layer_index(layer) for layer in settings.layers]
    names = [target.weight_name(layer).removesuffix(".weight") for layer in layers]
    return {name: target.model.get_submodule(name) for name in names}
