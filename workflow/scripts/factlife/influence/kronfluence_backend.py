"""Influence functions of Kronfluence: EK-FAC, K-FAC, a diagonal Hessian, or the identity."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers.pytorch_utils import Conv1D

from factlife.config.influence import Kronfluence
from factlife.influence.errors import InfluenceError
from factlife.influence.gradients import gradient_norms
from factlife.influence.model_based import RankingInputs
from factlife.influence.tokenized_texts import TokenizedText

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rank_with_kronfluence(inputs: RankingInputs, settings: Kronfluence, *, batch_tokens: int) -> np.ndarray:
    """∇L(query)ᵀ H⁻¹ ∇L(document), (queries, documents), from the linear layers inside the blocks (Grosse et al. 2023).

    H is Kronfluence's approximation of the Fisher matrix, with labels sampled from the model. With ``unit_normalize``,
    scores are divided by the norm of the document gradient.

    Args:
        inputs: model, queries and documents; the loss of a query is its cross-entropy.
        settings: settings of the ranker.
        batch_tokens: tokens in a batch.

    Raises:
        InfluenceError: factors or scores are not finite.
    """
    queries, documents, pad = inputs.queries, inputs.documents, inputs.pad
    document_norms = (
        gradient_norms(inputs.model, documents, ["blocks"], pad=pad, batch_tokens=batch_tokens)
        if settings.unit_normalize
        else 1.0
    )
    model = as_linear(inputs.model)
    task = _LanguageModelingTask([name for name, module in model.named_modules() if _is_tracked(model, module)])
    model = prepare_model(model, task)
    rng = random.Random(f"factors {settings.seed}")
    factor_documents = rng.sample(list(documents), min(settings.factor_documents, len(documents)))
    max_length = max(len(text.input_ids) for text in [*queries, *documents])
    datasets = {
        name: _PaddedTexts(texts, pad, max_length)
        for name, texts in (("factors", factor_documents), ("queries", queries), ("documents", documents))
    }
    batch_size = max(1, batch_tokens // max_length)
    torch.manual_seed(settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "influence", model, task, cpu=next(model.parameters()).device.type == "cpu", output_dir=folder, disable_tqdm=True
        )  # fmt: skip
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
        analyzer.fit_all_factors(
            "factors",
            datasets["factors"],
            per_device_batch_size=batch_size,
            factor_args=FactorArguments(strategy=settings.strategy),
        )
        analyzer.compute_pairwise_scores(
            "scores", "factors", datasets["queries"], datasets["documents"], per_device_query_batch_size=len(queries),
            per_device_train_batch_size=batch_size, score_args=ScoreArguments(damping_factor=settings.damping_factor),
        )  # fmt: skip
        scores = analyzer.load_pairwise_scores("scores")["all_modules"].numpy()
    if not np.isfinite(scores).all():
        raise InfluenceError(
            "Kronfluence's factors or scores are not finite; raise `damping_factor` or `factor_documents`"
        )
    return np.divide(
        scores, document_norms, out=np.zeros_like(scores), where=np.broadcast_to(document_norms, scores.shape) > 0
    )


def as_linear(model: PreTrainedModel) -> Any:
    """A copy of the model in which every use of a linear layer is its own ``nn.Linear``, the only kind Kronfluence supports.

    A layer that is used twice is duplicated, since Kronfluence keeps only one of its uses.
    """
    unshared = copy.deepcopy(model)
    for parent in list(unshared.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                linear = nn.Linear(*child.weight.shape)
                linear.weight.data, linear.bias.data = child.weight.data.T.contiguous(), child.bias.data
                setattr(parent, name, linear)
        if isinstance(parent, nn.ModuleList):
            for i, layer in enumerate(parent):
                if any(layer is earlier_layer for earlier_layer in parent[:i]):
                    parent[i] = copy.deepcopy(layer)
    return unshared.eval()


def _is_tracked(model: PreTrainedModel, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module is not model.get_output_embeddings()


class _PaddedTexts(Dataset):
    def __init__(self, texts: Sequence[TokenizedText], pad: int, length: int) -> None:
        self.input_ids = torch.full((len(texts), length), pad)
        self.attention_mask = torch.zeros_like(self.input_ids)
        self.is_scored = torch.zeros_like(self.input_ids, dtype=torch.bool)
        for row, text in enumerate(texts):
            self.input_ids[row, : len(text.input_ids)] = torch.tensor(text.input_ids)
            self.attention_mask[row, : len(text.input_ids)] = 1
            self.is_scored[row, text.scored_positions] = True

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {
            "input_ids": self.input_ids[row],
            "attention_mask": self.attention_mask[row],
            "scored": self.is_scored[row],
        }


class _LanguageModelingTask(Task):
    """The losses of ``tokenized_texts.text_losses``; with ``sample``, for labels sampled from the model (true Fisher)."""

    def __init__(self, modules: list[str]) -> None:
        super().__init__()
        self.modules = modules

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        is_scored = batch["scored"][:, 1:]
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1][is_scored]
        labels = batch["input_ids"][:, 1:][is_scored]
        if sample:
            with torch.no_grad():
                labels = torch.multinomial(logits.float().softmax(-1), 1)[:, 0]
        return nn.functional.cross_entropy(logits.float(), labels, reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch=batch, model=model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules

    def get_attention_mask(self, batch: Any) -> Tensor:
        return batch["attention_mask"]
