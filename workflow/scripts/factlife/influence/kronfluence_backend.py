"""Influence functions with curvature through Kronfluence: EK-FAC, K-FAC, a diagonal, or none (identity)."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Sequence
from typing import Any

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


def rank_with_kronfluence(prepared: RankingInputs, settings: Kronfluence, *, batch_tokens: int) -> np.ndarray:
    """∇L(query)ᵀ H⁻¹ ∇L(document), (queries, documents), over the linear maps inside the blocks (Grosse et al. 2023).

    H is Kronfluence's approximation of the Fisher matrix, with labels that the model itself draws. Where the settings say
    so, scores are divided by the norm of the document's gradient.

    Args:
        prepared: model and texts; a query's loss is its cross-entropy.
        settings: of Kronfluence.
        batch_tokens: tokens in a batch.

    Raises:
        InfluenceError: factors are not finite.
    """
    queries, documents, pad = prepared.queries, prepared.documents, prepared.pad
    lengths = (
        gradient_norms(prepared.model, documents, ["blocks"], pad=pad, batch_tokens=batch_tokens)
        if settings.unit_normalize
        else 1.0
    )
    model = as_linear(prepared.model)
    task = _LanguageModelingTask([name for name, module in model.named_modules() if _tracked(model, module)])
    model = prepare_model(model, task)
    rng = random.Random(f"factors {settings.seed}")
    some = rng.sample(list(documents), min(settings.factor_documents, len(documents)))
    longest = max(len(text.ids) for text in [*queries, *documents])
    data = {
        name: _PaddedTexts(texts, pad, longest)
        for name, texts in (("fit", some), ("query", queries), ("read", documents))
    }
    size = max(1, batch_tokens // longest)
    torch.manual_seed(settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "influence", model, task, cpu=next(model.parameters()).device.type == "cpu", output_dir=folder, disable_tqdm=True
        )  # fmt: skip
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
        analyzer.fit_all_factors(
            "factors", data["fit"], per_device_batch_size=size, factor_args=FactorArguments(strategy=settings.strategy)
        )
        analyzer.compute_pairwise_scores(
            "scores", "factors", data["query"], data["read"], per_device_query_batch_size=len(queries),
            per_device_train_batch_size=size, score_args=ScoreArguments(damping_factor=settings.damping_factor),
        )  # fmt: skip
        scores = analyzer.load_pairwise_scores("scores")["all_modules"].numpy()
    if not np.isfinite(scores).all():
        raise InfluenceError(
            "Kronfluence's factors or scores are not finite; raise `damping_factor` or `factor_documents`"
        )
    return np.divide(scores, lengths, out=np.zeros_like(scores), where=np.broadcast_to(lengths, scores.shape) > 0)


def as_linear(model: Any) -> Any:
    """A copy in which every use of a linear map is a ``nn.Linear`` of its own, since Kronfluence knows no other.

    A layer that is used twice becomes two with the same weights: Kronfluence keeps only one of its uses.
    """
    memo: dict[int, Any] = {}
    fresh = copy.deepcopy(model, memo)
    for parent in list(fresh.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv1D):
                linear = nn.Linear(*child.weight.shape)
                linear.weight.data, linear.bias.data = child.weight.data.T.contiguous(), child.bias.data
                setattr(parent, name, linear)
        if isinstance(parent, nn.ModuleList):
            for place, layer in enumerate(parent):
                if any(layer is other for other in parent[:place]):
                    parent[place] = copy.deepcopy(layer)
    return fresh.eval()


def _tracked(model: Any, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module is not model.get_output_embeddings()


class _PaddedTexts(Dataset):
    def __init__(self, texts: Sequence[TokenizedText], pad: int, length: int) -> None:
        self.ids = torch.full((len(texts), length), pad)
        self.mask, self.scored_positions = torch.zeros_like(self.ids), torch.zeros_like(self.ids, dtype=torch.bool)
        for row, text in enumerate(texts):
            self.ids[row, : len(text.ids)] = torch.tensor(text.ids)
            self.mask[row, : len(text.ids)] = 1
            self.scored_positions[row, text.scored_positions] = True

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[row], "attention_mask": self.mask[row], "scored": self.scored_positions[row]}


class _LanguageModelingTask(Task):
    """The same losses as those of ``texts.losses``; with ``sample``, of labels that the model draws (Fisher)."""

    def __init__(self, modules: list[str]) -> None:
        super().__init__()
        self.modules = modules

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        scored = batch["scored"][:, 1:]
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1][scored]
        labels = batch["input_ids"][:, 1:][scored]
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
