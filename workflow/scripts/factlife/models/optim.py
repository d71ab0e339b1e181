"""Muon for the matrices inside the blocks, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from factlife.config.training import Training


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers behind the interface of one, for schedulers, clipping and checkpoints.

    Muon (Jordan et al. 2024) orthogonalises the momentum of each matrix. AdamW steps embeddings, norms and
    biases, for which Muon is not meant.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        # The same dictionaries, so that the parts see what a scheduler writes here.
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
        """Load the states of both parts."""
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def build_optimizer(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Build the configured optimizer; vectors have no weight decay."""
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim == 2 and id(parameter) not in embeddings]
    tables = [parameter for parameter in parameters if id(parameter) in embeddings]
    vectors = [parameter for parameter in parameters if parameter.ndim != 2]
    adamw_matrices = tables if settings.optimizer == "muon" else matrices + tables
    adamw = torch.optim.AdamW(
        [{"params": adamw_matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    if settings.optimizer == "adamw":
        return adamw
    muon = torch.optim.Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay)
    return MuonWithAdamW(muon, adamw)


def learning_rate_factor(step: int, steps: int, settings: Training) -> float:
    """Factor on the learning rate: linear warm-up, constant, linear decay to 0."""
    warmup_steps, decay_steps = settings.warmup_fraction * steps, settings.decay_fraction * steps
    return min(
        1.0, (step + 1) / warmup_steps if warmup_steps else 1.0, (steps - step) / decay_steps if decay_steps else 1.0
    )
