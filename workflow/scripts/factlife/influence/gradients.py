"""Exact inner products of gradients, without materialising the gradient of any document.

A linear layer y = W x + b has, for a text of T tokens, the gradient Σ_t g_t x_tᵀ, where x_t is its input at token t and
g_t the derivative of the loss with respect to its output there. The inner product of two texts' gradients is therefore

    ⟨Σ_t g_t x_tᵀ, Σ_s h_s z_sᵀ⟩ = Σ_t Σ_s (g_t · h_s)(x_t · z_s),

two small matrix products instead of two matrices of the size of W. The input of an embedding is one-hot, so x_t · z_s is 1
if two tokens are equal and 0 otherwise. A weight used in several places has one such sum per pair of uses. Gradients of
vectors (biases, norms) are small and are materialised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from factlife.config.influence import Gradient
from factlife.influence.errors import InfluenceError
from factlife.influence.tokenized_texts import (
    TextBatch,
    TokenizedText,
    batch_texts,
    text_losses,
    truncate_after_scored,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Document tokens per product with the query tokens; the result stays in the processor's cache.
_CHUNK_ROWS = 256


@dataclass
class GradientFactors:
    """Gradients of a batch of texts as factors. Keys are parameter names.

    Attributes:
        matrices: for each weight matrix, one pair of factors per use, for its rows and its columns, (n, length, ·); one-hot rows are stored
            as ids, (n, length).
        vectors: (n, d) for each bias and norm.
    """

    matrices: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def squared_norms(self) -> Tensor:
        """Squared norm of the whole gradient of each text, (n,)."""
        total = sum((vector.square().sum(1) for vector in self.vectors.values()), torch.zeros(()))
        for uses in self.matrices.values():
            for first in uses:
                for second in uses:
                    products = _inner_products(first[0], second[0]) * _inner_products(first[1], second[1])
                    total = total + products.sum((1, 2))
        return total


def _inner_products(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of all rows with all rows, (…, n, m); ids stand for one-hot rows."""
    if not first.is_floating_point() and not second.is_floating_point():
        return (first[..., :, None] == second[..., None, :]).float()
    if not second.is_floating_point():
        return _inner_products(second, first).mT
    if not first.is_floating_point():
        return (
            second.mT[first]
            if second.ndim == 2
            else second.mT.gather(1, first[..., None].expand(-1, -1, second.shape[1]))
        )
    return first @ second.mT


def factored_gradients(model: PreTrainedModel, batch: TextBatch, parameters: Sequence[str]) -> GradientFactors:
    """Gradients of each text's loss with respect to the selected parameters, from one pass over the batch.

    Args:
        model: model in eval mode.
        batch: the texts.
        parameters: ``blocks`` (all linear layers except the unembedding, with biases), ``embeddings`` (all embedding
            tables and the unembedding), ``norms``.
    """
    uses: list[tuple[nn.Module, Tensor, Tensor]] = []
    with _without_parameter_gradients(model), _record_uses(model, parameters, len(batch.input_ids), uses):
        total_loss = text_losses(model, batch).sum()
    derivatives = torch.autograd.grad(total_loss, [output for *_, output in uses], allow_unused=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    factors = GradientFactors()
    for (module, module_input, output), gradient in zip(uses, derivatives, strict=True):
        derivative = torch.zeros_like(output) if gradient is None else gradient
        if isinstance(module, nn.Embedding):
            factors.matrices.setdefault(names[id(module.weight)], []).append((module_input, derivative))
            continue
        if module.weight.ndim == 2:
            factors.matrices.setdefault(names[id(module.weight)], []).append((derivative, module_input))
        else:
            norm_gradient = (derivative * _normalized_input(module, module_input)).sum(1)
            _add(factors.vectors, names[id(module.weight)], norm_gradient)
        if getattr(module, "bias", None) is not None:
            _add(factors.vectors, names[id(module.bias)], derivative.sum(1))
    return factors


def _add(vectors: dict[str, Tensor], name: str, vector: Tensor) -> None:
    vectors[name] = vectors[name] + vector if name in vectors else vector


def _normalized_input(norm: nn.Module, module_input: Tensor) -> Tensor:
    """The factor that a norm multiplies by its weight. All norms are affine in the weight, whether or not they add 1 to it."""
    with torch.no_grad():
        ones, zeros = ({"weight": torch.full_like(norm.weight, value)} for value in (1.0, 0.0))
        return functional_call(norm, ones, (module_input,)) - functional_call(norm, zeros, (module_input,))


@contextmanager
def _without_parameter_gradients(model: nn.Module) -> Iterator[None]:
    """Disable gradients of parameters, so that the backward pass computes only those of activations."""
    previous = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in previous:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, requires_grad in previous:
            parameter.requires_grad_(requires_grad)


@contextmanager
def _record_uses(
    model: PreTrainedModel, parameters: Sequence[str], n_texts: int, uses: list[tuple[nn.Module, Tensor, Tensor]]
) -> Iterator[None]:
    """Append module, input and output of every use of the selected parameters in a forward pass over ``n_texts`` texts."""
    unembedding = model.get_output_embeddings()

    def is_selected(module: nn.Module) -> bool:
        if isinstance(module, nn.Embedding) or module is unembedding:
            return "embeddings" in parameters
        if isinstance(module, nn.Linear | Conv1D):
            return "blocks" in parameters
        return "norms" in parameters and getattr(getattr(module, "weight", None), "ndim", 0) == 1

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        module_input, is_embedding = inputs[0], isinstance(module, nn.Embedding)
        if is_embedding:
            # Positions are embedded once for all texts and would share one derivative, so expand them to all texts. The
            # autograd graph starts here, since no parameter requires a gradient.
            module_input = module_input.expand(n_texts, -1)
            output = output.detach().expand(n_texts, -1, -1).requires_grad_()
        if is_selected(module):
            uses.append((module, module_input.detach(), output))
        return output if is_embedding else None

    hooks = [
        module.register_forward_hook(record)
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.Linear, Conv1D)) or is_selected(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class QueryGradients:
    """Gradients of queries, prepared for inner products with those of many documents.

    Raises:
        InfluenceError: the gradient of a query is zero or not finite, so it cannot rank documents.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        texts: Sequence[TokenizedText],
        parameters: Sequence[str],
        *,
        pad: int,
        batch_tokens: int,
        names: Sequence[str],
    ) -> None:
        self.model, self.parameters, self.pad, self.batch_tokens = model, parameters, pad, batch_tokens
        self.device, self.n_queries = next(model.parameters()).device, len(texts)
        self.norms = torch.zeros(len(texts), device=self.device)
        self.vectors: dict[str, Tensor] = {}
        # For each use of each weight: the token rows of all queries, and the index in `row_queries` of their queries.
        self.rows: dict[str, list[tuple[Tensor, Tensor, int]]] = {}
        self.row_queries: list[Tensor] = []
        rows: dict[str, list[list[tuple[Tensor, Tensor, Tensor]]]] = {}
        for batch in self._batches(texts):
            factors = factored_gradients(model, batch, parameters)
            indices = torch.tensor(batch.indices, device=self.device)
            self.norms[indices] = factors.squared_norms().sqrt()
            for name, vector in factors.vectors.items():
                self.vectors.setdefault(name, vector.new_zeros(len(texts), vector.shape[1]))[indices] = vector
            for name, uses in factors.matrices.items():
                parts = rows.setdefault(name, [[] for _ in uses])
                for part, use in zip(parts, uses, strict=True):
                    row_factor, column_factor, text = _nonzero_rows(*use)
                    part.append((row_factor, column_factor, indices[text]))
        for name, parts in rows.items():
            for row_factor, column_factor, queries in (map(torch.cat, zip(*part, strict=True)) for part in parts):
                self.rows.setdefault(name, []).append((row_factor, column_factor, self._index_of(queries)))
        if (is_invalid := ~(self.norms.isfinite() & (self.norms > 0))).any():
            name = names[int(is_invalid.nonzero()[0])]
            raise InfluenceError(
                f"the gradient of query {name} has norm {self.norms[is_invalid][0].item()}: it ranks no document; check its "
                "completion, and that the loss is finite"
            )

    def _batches(self, texts: Sequence[TokenizedText]) -> Iterator[TextBatch]:
        return batch_texts(texts, self.pad, self.batch_tokens, self.device)

    def _index_of(self, queries: Tensor) -> int:
        """Rows of most weights belong to the same queries; their products are summed before they are added up per query."""
        for i, row_queries in enumerate(self.row_queries):
            if torch.equal(row_queries, queries):
                return i
        self.row_queries.append(queries)
        return len(self.row_queries) - 1

    def products(self, factors: GradientFactors) -> Tensor:
        """Inner products with the gradients of a batch of texts, (n, queries)."""
        total = sum((vector @ self.vectors[name].T for name, vector in factors.vectors.items()), torch.zeros(()))
        row_products: dict[int, Tensor] = {}
        for name, uses in factors.matrices.items():
            for use in uses:
                rows = _nonzero_rows(*use)
                for query_row_factor, query_column_factor, index in self.rows[name]:
                    sums = row_products.setdefault(
                        index, query_row_factor.new_zeros(len(use[0]), len(query_row_factor), dtype=torch.float)
                    )
                    for row_factor, column_factor, text in zip(
                        *(part.split(_CHUNK_ROWS) for part in rows), strict=True
                    ):
                        products = _inner_products(row_factor, query_row_factor).mul_(
                            _inner_products(column_factor, query_column_factor)
                        )
                        sums.index_add_(0, text, products)
        for index, sums in row_products.items():
            total = total + sums.new_zeros(len(sums), self.n_queries).index_add_(1, self.row_queries[index], sums)
        return total

    def dot_products(self, texts: Sequence[TokenizedText], *, norms: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Inner products with many texts, (queries, texts), and gradient norms of the texts, (texts,), batch by batch."""
        products, text_norms = np.zeros((self.n_queries, len(texts)), np.float32), np.zeros(len(texts), np.float32)
        for batch in self._batches(list(map(truncate_after_scored, texts))):
            factors = factored_gradients(self.model, batch, self.parameters)
            products[:, batch.indices] = self.products(factors).T.cpu().numpy()
            if norms:
                text_norms[batch.indices] = factors.squared_norms().clamp(min=0).sqrt().cpu().numpy()
        return products, text_norms


def _nonzero_rows(row_factor: Tensor, column_factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows with a nonzero derivative, and the index of their text. In the last layer most tokens have none."""
    is_nonzero = ((row_factor if row_factor.is_floating_point() else column_factor) != 0).any(-1)
    return row_factor[is_nonzero], column_factor[is_nonzero], is_nonzero.nonzero()[:, 0]


def gradient_norms(
    model: PreTrainedModel, texts: Sequence[TokenizedText], parameters: Sequence[str], *, pad: int, batch_tokens: int
) -> np.ndarray:
    """Gradient norm of each text, (texts,)."""
    norms, device = np.zeros(len(texts), np.float32), next(model.parameters()).device
    for batch in batch_texts(list(map(truncate_after_scored, texts)), pad, batch_tokens, device):
        squared_norms = factored_gradients(model, batch, parameters).squared_norms()
        norms[batch.indices] = squared_norms.clamp(min=0).sqrt().cpu().numpy()
    return norms


def rank_by_gradient(
    load: Callable[[int], tuple[Any, Any]],
    tokenize: Callable[[Any, Any], tuple[list[TokenizedText], list[TokenizedText]]],
    settings: Gradient,
    names: Sequence[str],
    *,
    batch_tokens: int,
) -> np.ndarray:
    """Scores, (queries, documents): inner products of gradients, summed over checkpoints (Pruthi et al. 2020, TracInCP).

    The sum is not weighted by the learning rate, since two optimizers with different learning rates are in use. Cosines are
    computed at each checkpoint. A document without scored tokens has no gradient and scores 0.

    Args:
        load: returns model and tokenizer of a checkpoint, given its index.
        tokenize: returns queries and documents, given model and tokenizer.
        settings: settings of the ranker.
        names: names of the queries, for error messages.
        batch_tokens: tokens in a batch; no score depends on it.
    """
    total: Any = 0.0
    for checkpoint in settings.checkpoints:
        model, tokenizer = load(checkpoint)
        query_texts, document_texts = tokenize(model, tokenizer)
        queries = QueryGradients(
            model, query_texts, settings.parameters, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens, names=names
        )
        scores, document_norms = queries.dot_products(document_texts, norms=settings.score != "dot")
        if settings.score != "dot":
            scale = queries.norms.cpu().numpy()[:, None] * document_norms
            scores = np.divide(scores, scale, out=np.zeros_like(scores), where=scale > 0)
        total = total + scores
    return total - total.mean(0) if settings.score == "centred" else total
