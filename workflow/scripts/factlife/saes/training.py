"""Training of sparse autoencoders and transcoders: five architectures, all set by the number ``k`` of active features."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from factlife.config.dictionaries import DictionarySettings
from factlife.saes.activations import ActivationPair, stream_activations
from factlife.saes.dictionary import Dictionary, top_k

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_AUXK_COEFFICIENT = 1 / 8
_BANDWIDTH = 0.05
_BUFFER_BATCHES, _CONTEXT_SIZE = 32, 256
# Batches that calibrate the thresholds, and the fraction of k that is active in them.
_CALIBRATION_BATCHES, _CALIBRATION_FRACTION = 8, 0.98
_MATRYOSHKA_FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


def train_dictionaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    settings: DictionarySettings,
) -> list[Dictionary]:
    """Train one dictionary for each layer of a model on the token ids of documents."""
    batches = stream_activations(
        model,
        tokenizer,
        sequences,
        settings.site,
        batch_size_tokens=settings.train_batch_size_tokens,
        buffer_batches=_BUFFER_BATCHES,
        activation_reuse=settings.activation_reuse,
        generator=torch.Generator().manual_seed(settings.seed),
    )
    return train_on_batches(batches, settings)


def split_documents(
    documents: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, settings: DictionarySettings
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of training documents and of held-out documents, both in random order.

    Held-out documents are those of the corpus or, if it has none, a random fraction of all documents.
    """
    shuffled = documents.sample(frac=1, random_state=settings.seed)
    is_held_out = (shuffled["split"] != "train").to_numpy()
    if not is_held_out.any():
        is_held_out = np.arange(len(shuffled)) < max(1, round(settings.held_out_fraction * len(shuffled)))
    sequences = [ids[:_CONTEXT_SIZE] for ids in tokenizer(shuffled["text"].tolist())["input_ids"]]
    train: list[list[int]] = []
    held_out: list[list[int]] = []
    for ids, is_test in zip(sequences, is_held_out, strict=True):
        (held_out if is_test else train).append(ids)
    return train, held_out


def take_tokens(sequences: list[list[int]], n_tokens: int) -> list[list[int]]:
    """The first sequences that together have at least ``n_tokens`` tokens, or all sequences."""
    ends = np.cumsum([len(ids) for ids in sequences])
    return sequences[: int(np.searchsorted(ends, n_tokens)) + 1]


def train_on_batches(batches: Iterable[list[ActivationPair]], settings: DictionarySettings) -> list[Dictionary]:
    """Train one dictionary per layer on batches of the activations of all layers.

    Args:
        batches: one per training step and a few more, each with (batch, d_in) and (batch, d_out) for every layer.
        settings: settings of the dictionaries.

    Returns:
        The dictionaries, with thresholds at which slightly fewer than ``k`` features are active on average.
    """
    n_steps = max(1, settings.training_tokens // settings.train_batch_size_tokens)
    trainers: list[DictionaryTrainer] = []
    batches = iter(batches)
    for step, layers in zip(range(n_steps), batches, strict=False):
        trainers = trainers or [DictionaryTrainer(x, y, settings, layer) for layer, (x, y) in enumerate(layers)]
        losses = [trainer.step(x, y, step / n_steps) for trainer, (x, y) in zip(trainers, layers, strict=True)]
        if step % max(1, n_steps // 10) == 0:
            text = " ".join(f"{loss:.4f}" for loss in losses)
            logging.info("step %d of %d: fraction of variance unexplained %s", step, n_steps, text)
    calibration = [[x for x, _ in layers] for layers in itertools.islice(batches, _CALIBRATION_BATCHES)]
    return [trainer.to_dictionary(xs) for trainer, xs in zip(trainers, zip(*calibration, strict=True), strict=True)]


class DictionaryTrainer:
    """A dictionary in training, on activations scaled to mean length √d.

    Attributes:
        weights: ``W_enc, b_enc, W_dec, b_dec`` and, for JumpReLU, ``log_threshold``; shapes as in ``Dictionary``.
        tokens_since_active: (d_sae,), tokens since each feature was last active.
        l1_coefficient: weight of the L1 penalty, adjusted so that ``k`` features are active.
    """

    def __init__(self, x: Tensor, y: Tensor, settings: DictionarySettings, layer: int) -> None:
        """Initialise from the first batch: its mean lengths give the scales, its mean the decoder bias."""
        self.settings, self.is_transcoder = settings, settings.site == "transcoder"
        (_, d_in), d_out = x.shape, y.shape[1]
        d_sae = settings.expansion_factor * d_in
        self.scale_in, self.scale_out = (d**0.5 / t.norm(dim=-1).mean() for t, d in ((x, d_in), (y, d_out)))
        generator = torch.Generator().manual_seed(1000 * settings.seed + layer)
        decoder = nn.functional.normalize(torch.randn(d_sae, d_out, generator=generator), dim=-1).to(x.device)
        encoder = nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1).to(x.device)
        self.weights = {
            "W_enc": (encoder if self.is_transcoder else decoder).T.clone(),
            "b_enc": torch.zeros(d_sae, device=x.device),
            "W_dec": decoder,
            "b_dec": (self.scale_out * y).mean(0),
        }
        if settings.architecture == "jumprelu":
            self.weights["log_threshold"] = torch.full((d_sae,), -1.0, device=x.device)
        for weight in self.weights.values():
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=settings.learning_rate, betas=(0.9, 0.999))
        self.tokens_since_active = torch.zeros(d_sae, device=x.device)
        self.l1_coefficient = 1e-2

    def step(self, x: Tensor, y: Tensor, progress: float) -> float:
        """Take one optimiser step; ``progress`` is the fraction of training completed before it.

        Returns:
            The fraction of variance unexplained before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * min(1.0, progress / 0.05 + 0.1, (1 - progress) / 0.3)
        x, y = self.scale_in * x, self.scale_out * y
        z = self.preactivations(x)
        a = self.activations(z)
        variance = (y - y.mean(0)).square().sum()
        fvu, penalty = self.fraction_unexplained(a, y, variance), self.sparsity_penalty(a, z)
        with torch.no_grad():
            self.tokens_since_active = torch.where((a > 0).any(0), 0.0, self.tokens_since_active + len(x))
        loss = fvu + penalty
        if (self.tokens_since_active > self.settings.dead_feature_tokens).any():
            loss = loss + _AUXK_COEFFICIENT * self.auxk_loss(z, y - self.decode(a).detach())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.weights["W_dec"].div_(self.weights["W_dec"].norm(dim=-1, keepdim=True))
        return fvu.item()

    def preactivations(self, x: Tensor) -> Tensor:
        """Pre-activations z, (batch, d_sae), from scaled inputs, (batch, d_in)."""
        centred = x if self.is_transcoder else x - self.weights["b_dec"]
        return torch.addmm(self.weights["b_enc"], centred, self.weights["W_enc"])

    def decode(self, a: Tensor) -> Tensor:
        """Scaled reconstruction, (batch, d_out)."""
        return torch.addmm(self.weights["b_dec"], a, self.weights["W_dec"])

    def activations(self, z: Tensor) -> Tensor:
        """Feature activations, (batch, d_sae), by the architecture's activation function."""
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

    def fraction_unexplained(self, a: Tensor, y: Tensor, variance: Tensor) -> Tensor:
        """Squared error over variance; for Matryoshka its mean over nested prefixes (Bussmann et al. 2025)."""
        if self.settings.architecture != "matryoshka_batchtopk":
            return (self.decode(a) - y).square().sum() / variance
        ends = [round(fraction * a.shape[1]) for fraction in _MATRYOSHKA_FRACTIONS]
        reconstruction, losses = self.weights["b_dec"], []
        for start, end in zip([0, *ends], ends, strict=False):
            reconstruction = reconstruction + a[:, start:end] @ self.weights["W_dec"][start:end]
            losses.append((reconstruction - y).square().sum() / variance)
        return torch.stack(losses).mean()

    def sparsity_penalty(self, a: Tensor, z: Tensor) -> Tensor | float:
        """Penalty that drives L0 to k in architectures that do not fix it."""
        match self.settings.architecture:
            case "jumprelu":
                # (L0 / k − 1)², as in the training of Gemma Scope 2: it targets k itself and needs no tuned weight.
                l0 = Step.apply(z, self.weights["log_threshold"].exp()).sum(-1).mean()
                return 0.5 * (l0 / self.settings.k - 1).square()
            case "standard":
                l0 = float((a > 0).sum(-1).float().mean())
                self.l1_coefficient *= (max(l0, 1e-3) / self.settings.k) ** 0.03
                return self.l1_coefficient * a.sum(-1).mean() / a.shape[1] ** 0.5
        return 0.0

    def auxk_loss(self, z: Tensor, error: Tensor) -> Tensor:
        """AuxK (Gao et al. 2024): dead features reconstruct the error of the others, relative to its variance.

        Pre-activations are not rectified: a feature that is negative everywhere would have no gradient and stay dead.
        """
        dead = (self.tokens_since_active > self.settings.dead_feature_tokens).nonzero().flatten()
        k = min(len(dead), error.shape[1] // 2)
        reconstruction = top_k(z[:, dead], k) @ self.weights["W_dec"][dead]
        scale = min(1.0, len(dead) / (error.shape[1] // 2))
        return scale * (reconstruction - error).square().sum() / (error - error.mean(0)).square().sum()

    @torch.no_grad()
    def to_dictionary(self, xs: Sequence[Tensor]) -> Dictionary:
        """The dictionary on unscaled activations: scales folded into the weights, and a threshold for each feature.

        The threshold is the mean over batches of the smallest activation among the k · batch largest (Bussmann et al.
        2024, eq. 6). It uses .98 k, so that no more than k features are active on other text either.
        """
        w, k = self.weights, _CALIBRATION_FRACTION * self.settings.k
        zs = [self.preactivations(self.scale_in * x) for x in xs]

        def smallest_active(scale: Tensor | float) -> Tensor:
            return torch.stack([kth_largest(z / scale, round(k * len(z))) for z in zs]).mean().clamp(min=1e-6)

        match self.settings.architecture:
            case "jumprelu":
                # One common factor corrects what the penalty leaves of the distance to k.
                threshold = w["log_threshold"].exp()
                threshold = threshold * smallest_active(threshold)
            case "standard":
                threshold = torch.zeros_like(w["b_enc"])
            case _:
                threshold = smallest_active(1.0).expand_as(w["b_enc"])
        per_position = self.settings.architecture == "topk" and not self.is_transcoder
        # Dividing activations by scale_out keeps decoder rows at unit norm.
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
    """z where z > θ, else 0; the gradient of θ is a kernel estimate (Rajamanoharan et al. 2024, eq. 11)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(z, threshold)
        return torch.where(z > threshold, z, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        z, threshold = ctx.saved_tensors
        in_kernel = ((z - threshold).abs() < _BANDWIDTH / 2) / _BANDWIDTH
        return gradient * (z > threshold), (-threshold * in_kernel * gradient).sum(0)


class Step(torch.autograd.Function):
    """1 where z > θ, else 0; only θ has a gradient, a kernel estimate (Rajamanoharan et al. 2024, eq. 12)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(z, threshold)
        return (z > threshold).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: D102
        z, threshold = ctx.saved_tensors
        in_kernel = ((z - threshold).abs() < _BANDWIDTH / 2) / _BANDWIDTH
        return None, (-in_kernel * gradient).sum(0)
