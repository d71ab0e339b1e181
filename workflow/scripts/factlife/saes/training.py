"""Training sparse autoencoders and transcoders: five ways to be sparse, one setting ``k`` for all of them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from factlife.config.dictionaries import DictionarySettings
from factlife.saes.activations import ActivationPair, stream_activations
from factlife.saes.dictionary import Dictionary, top_k

_AUXILIARY = 1 / 8
_BANDWIDTH = 0.05
_BUFFER, _LONGEST = 32, 256
# Batches that set thresholds, and the share of k that is to be active in them.
_CALIBRATION, _SPARSER = 8, 0.98
_PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


def train_dictionaries(
    model: Any, tokenizer: Any, sequences: Sequence[Sequence[int]], settings: DictionarySettings
) -> list[Dictionary]:
    """Train one dictionary for each layer of a model on token ids of documents."""
    generator = torch.Generator().manual_seed(settings.seed)
    how = {
        "batch_size_tokens": settings.train_batch_size_tokens,
        "buffer_batches": _BUFFER,
        "activation_reuse": settings.activation_reuse,
        "generator": generator,
    }
    return train_on_batches(stream_activations(model, tokenizer, sequences, settings.site, **how), settings)


def split_documents(
    documents: pd.DataFrame, tokenizer: Any, settings: DictionarySettings
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of documents for training and of those held out, both in random order.

    Held out are those that the corpus holds out or, where it holds out none, a share of all.
    """
    shuffled = documents.sample(frac=1, random_state=settings.seed)
    apart = (shuffled["split"] != "train").to_numpy()
    if not apart.any():
        apart = np.arange(len(shuffled)) < max(1, round(settings.held_out_fraction * len(shuffled)))
    ids = [tokens[:_LONGEST] for tokens in tokenizer(shuffled["text"].tolist())["input_ids"]]
    kept, held_out = [], []
    for tokens, out in zip(ids, apart, strict=True):
        (held_out if out else kept).append(tokens)
    return kept, held_out


def take_tokens(sequences: list[list[int]], tokens: int) -> list[list[int]]:
    """The first sequences that together have at least so many tokens, or all of them."""
    ends = np.cumsum([len(ids) for ids in sequences])
    return sequences[: int(np.searchsorted(ends, tokens)) + 1]


def train_on_batches(batches: Iterable[list[ActivationPair]], settings: DictionarySettings) -> list[Dictionary]:
    """Train one dictionary a layer on batches that hold all layers' activations.

    Args:
        batches: as many as there are steps and a few more, each with (batch, d_in) and (batch, d_out) for every layer.
        settings: how.

    Returns:
        The dictionaries, with thresholds at which a little less than ``k`` features are active on average.
    """
    steps = max(1, settings.training_tokens // settings.train_batch_size_tokens)
    learners: list[DictionaryTrainer] = []
    batches = iter(batches)
    for step, layers in zip(range(steps), batches, strict=False):
        learners = learners or [DictionaryTrainer(x, y, settings, layer) for layer, (x, y) in enumerate(layers)]
        losses = [learner.step(x, y, step / steps) for learner, (x, y) in zip(learners, layers, strict=True)]
        if step % max(1, steps // 10) == 0:
            logging.info("step %d of %d: unexplained %s", step, steps, " ".join(f"{loss:.4f}" for loss in losses))
    last = [[x for x, _ in layers] for layers in itertools.islice(batches, _CALIBRATION)]
    return [learner.to_dictionary(xs) for learner, xs in zip(learners, zip(*last, strict=True), strict=True)]


class DictionaryTrainer:
    """A dictionary in training, on activations scaled to mean length √d.

    Attributes:
        weights: ``W_enc, b_enc, W_dec, b_dec`` and, for JumpReLU, ``log_threshold``; shapes as in ``Dictionary``.
        tokens_since_active: (d_sae,), tokens since each feature was active.
        weight: of the L1 penalty, steered so that ``k`` features are active.
    """

    def __init__(self, x: Tensor, y: Tensor, settings: DictionarySettings, layer: int) -> None:
        """Start from the first batch: its lengths give the scales, its mean the decoder's bias."""
        self.settings, self.is_transcoder = settings, settings.site == "transcoder"
        (_, d_in), d_out = x.shape, y.shape[1]
        d_sae = settings.expansion_factor * d_in
        self.scale_in, self.scale_out = (d**0.5 / t.norm(dim=-1).mean() for t, d in ((x, d_in), (y, d_out)))
        generator = torch.Generator().manual_seed(1000 * settings.seed + layer)
        rows = nn.functional.normalize(torch.randn(d_sae, d_out, generator=generator), dim=-1).to(x.device)
        encoder = nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1).to(x.device)
        self.weights = {
            "W_enc": (encoder if self.is_transcoder else rows).T.clone(),
            "b_enc": torch.zeros(d_sae, device=x.device),
            "W_dec": rows,
            "b_dec": (self.scale_out * y).mean(0),
        }
        if settings.architecture == "jumprelu":
            self.weights["log_threshold"] = torch.full((d_sae,), -1.0, device=x.device)
        for weight in self.weights.values():
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=settings.learning_rate, betas=(0.9, 0.999))
        self.tokens_since_active = torch.zeros(d_sae, device=x.device)
        self.l1_coefficient = 1e-2

    def step(self, x: Tensor, y: Tensor, done: float) -> float:
        """One step; ``done`` is the share of training before it.

        Returns:
            The share of variance that was left unexplained before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * min(1.0, done / 0.05 + 0.1, (1 - done) / 0.3)
        x, y = self.scale_in * x, self.scale_out * y
        z = self.preactivations(x)
        a = self.active(z)
        variance = (y - y.mean(0)).square().sum()
        left, penalty = self.unexplained(a, y, variance), self.sparsity_penalty(a, z)
        with torch.no_grad():
            self.tokens_since_active = torch.where((a > 0).any(0), 0.0, self.tokens_since_active + len(x))
        loss = left + penalty
        if (self.tokens_since_active > self.settings.dead_feature_tokens).any():
            loss = loss + _AUXILIARY * self.auxk_loss(z, y - self.decode(a).detach())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.weights["W_dec"].div_(self.weights["W_dec"].norm(dim=-1, keepdim=True))
        return left.item()

    def preactivations(self, x: Tensor) -> Tensor:
        """z, (batch, d_sae), from scaled activations, (batch, d_in)."""
        read = x if self.is_transcoder else x - self.weights["b_dec"]
        return torch.addmm(self.weights["b_enc"], read, self.weights["W_enc"])

    def decode(self, a: Tensor) -> Tensor:
        """The scaled reconstruction, (batch, d_out)."""
        return torch.addmm(self.weights["b_dec"], a, self.weights["W_dec"])

    def active(self, z: Tensor) -> Tensor:
        """Activations, (batch, d_sae), sparse in the architecture's way."""
        k = self.settings.k
        match self.settings.architecture:
            case "topk":  # Gao et al. 2024
                return top_k(z.relu(), k)
            case "batchtopk" | "matryoshka_batchtopk":  # Bussmann et al. 2024: the k · batch largest of the batch
                return nn.functional.threshold(z, max(0.0, kth_largest(z.detach(), k * len(z)).item()), 0.0)
            case "jumprelu":  # Rajamanoharan et al. 2024
                return JumpReLU.apply(z, self.weights["log_threshold"].exp())
            case "standard":
                return z.relu()

    def unexplained(self, a: Tensor, y: Tensor, variance: Tensor) -> Tensor:
        """Squared error over variance; for Matryoshka the mean over nested prefixes (Bussmann et al. 2025)."""
        if self.settings.architecture != "matryoshka_batchtopk":
            return (self.decode(a) - y).square().sum() / variance
        ends = [round(share * a.shape[1]) for share in _PREFIXES]
        said, errors = self.weights["b_dec"], []
        for start, end in zip([0, *ends], ends, strict=False):
            said = said + a[:, start:end] @ self.weights["W_dec"][start:end]
            errors.append((said - y).square().sum() / variance)
        return torch.stack(errors).mean()

    def sparsity_penalty(self, a: Tensor, z: Tensor) -> Tensor | float:
        """What holds L0 at k where nothing else does."""
        match self.settings.architecture:
            case "jumprelu":
                # (L0 / k − 1)², as in Gemma Scope 2's training: k is asked for, not a weight that leads to it.
                active = Step.apply(z, self.weights["log_threshold"].exp()).sum(-1).mean()
                return 0.5 * (active / self.settings.k - 1).square()
            case "standard":
                count = float((a > 0).sum(-1).float().mean())
                self.l1_coefficient *= (max(count, 1e-3) / self.settings.k) ** 0.03
                return self.l1_coefficient * a.sum(-1).mean() / a.shape[1] ** 0.5
        return 0.0

    def auxk_loss(self, z: Tensor, error: Tensor) -> Tensor:
        """AuxK (Gao et al. 2024): dead features reconstruct what living ones leave, as share of its variance.

        Not rectified: a feature that is below nothing everywhere would have no gradient, and stay dead.
        """
        dead = (self.tokens_since_active > self.settings.dead_feature_tokens).nonzero().flatten()
        k = min(len(dead), error.shape[1] // 2)
        said = top_k(z[:, dead], k) @ self.weights["W_dec"][dead]
        share = min(1.0, len(dead) / (error.shape[1] // 2))
        return share * (said - error).square().sum() / (error - error.mean(0)).square().sum()

    @torch.no_grad()
    def to_dictionary(self, xs: Sequence[Tensor]) -> Dictionary:
        """The dictionary on raw activations: scales folded into the weights, and a threshold for each feature.

        The threshold is the mean, over batches, of the least activation that is among the k · batch largest (Bussmann
        et al. 2024, eq. 6), with k two hundredths lower, so that in other text, too, no more than k are active.
        """
        w, k = self.weights, _SPARSER * self.settings.k
        zs = [self.preactivations(self.scale_in * x) for x in xs]

        def least(scale: Tensor | float) -> Tensor:
            return torch.stack([kth_largest(z / scale, round(k * len(z))) for z in zs]).mean().clamp(min=1e-6)

        match self.settings.architecture:
            case "jumprelu":
                # All by one factor, so that what the penalty has not reached is reached.
                learned = w["log_threshold"].exp()
                threshold = learned * least(learned)
            case "standard":
                threshold = torch.zeros_like(w["b_enc"])
            case _:
                threshold = least(1.0).expand_as(w["b_enc"])
        per_position = self.settings.architecture == "topk" and not self.is_transcoder
        # Activations are divided by scale_out, so that decoder rows keep length 1.
        return Dictionary(
            W_enc=w["W_enc"].detach() * self.scale_in / self.scale_out,
            b_enc=w["b_enc"].detach() / self.scale_out,
            W_dec=w["W_dec"].detach().clone(),
            b_dec=w["b_dec"].detach() / self.scale_out,
            threshold=torch.zeros_like(w["b_enc"]) if per_position else threshold.detach() / self.scale_out,
            k=self.settings.k if per_position else None,
            is_transcoder=self.is_transcoder,
        )


def kth_largest(z: Tensor, k: int) -> Tensor:
    """The k-th largest value of a tensor."""
    return z.flatten().kthvalue(max(1, z.numel() - k + 1)).values


class JumpReLU(torch.autograd.Function):
    """z where z > θ, else 0; θ's gradient is a kernel estimate (Rajamanoharan et al. 2024, eq. 11)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(z, threshold)
        return torch.where(z > threshold, z, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < _BANDWIDTH / 2) / _BANDWIDTH
        return gradient * (z > threshold), (-threshold * near * gradient).sum(0)


class Step(torch.autograd.Function):
    """1 where z > θ, else 0; only θ has a gradient, a kernel estimate (Rajamanoharan et al. 2024, eq. 12)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(z, threshold)
        return (z > threshold).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: D102
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < _BANDWIDTH / 2) / _BANDWIDTH
        return None, (-near * gradient).sum(0)
