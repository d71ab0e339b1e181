"""Muon for the matrices inside the blocks, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from factlife.config.models import Training


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that schedulers, clipping and checkpoints see as one.

    Muon (Jordan et al. 2024) orthogonalises the momentum of each matrix; it is not meant for embeddings, norms and
    biases, which AdamW steps.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        # The very same dictionaries: what a scheduler writes here, the parts read.
        self.param_groups = [*muon.param_groups, *adamw.param_groups]

    def step(self, closure: Any = None) -> None:
        """Step both parts."""
        for part in self.parts:
            part.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of both parts."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the states of both parts."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def build_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """The optimizer that the settings ask for; weight decay spares vectors."""
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in embeddings]
    tables = [parameter for parameter in trained if id(parameter) in embeddings]
    vectors = [parameter for parameter in trained if parameter.ndim != 2]
    by_adamw = tables if settings.optimizer == "muon" else matrices + tables
    adamw = torch.optim.AdamW(
        [{"params": by_adamw}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    if settings.optimizer == "adamw":
        return adamw
    muon = torch.optim.Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay)
    return MuonWithAdamW(muon, adamw)


def learning_rate_factor(step: int, steps: int, settings: Training) -> float:
    """The share of the full learning rate: a linear rise, a constant stretch, a linear fall to nothing."""
    rise, fall = settings.warmup_fraction * steps, settings.decay_fraction * steps
    return min(1.0, (step + 1) / rise if rise else 1.0, (steps - step) / fall if fall else 1.0)
