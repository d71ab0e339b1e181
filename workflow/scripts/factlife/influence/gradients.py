"""Exact inner products of gradients, without the gradient of any document.

A linear map y = W x + b in a text of T tokens has the gradient Σ_t g_t x_tᵀ, where x_t is what it reads at token t and
g_t is the derivative of the loss by what it writes there. The inner product of two texts' gradients is therefore

    ⟨Σ_t g_t x_tᵀ, Σ_s h_s z_sᵀ⟩ = Σ_t Σ_s (g_t · h_s)(x_t · z_s),

two small matrix products instead of two matrices as large as W. An embedding reads a one-hot vector, so that x_t · z_s
says whether two tokens are the same; a weight used in several places has several such sums. GradientFactors of vectors (biases,
norms) are small and formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from factlife.config.influence import Gradient
from factlife.influence.errors import InfluenceError
from factlife.influence.tokenized_texts import TextBatch, TokenizedText, batch_texts, text_losses, truncate_after_scored

# Tokens of documents that are multiplied with those of queries at once: their products stay in the processor's cache.
_ROWS = 256


@dataclass
class GradientFactors:
    """GradientFactors of a batch of texts, as factors. Keys are those of ``_names``.

    Attributes:
        matrices: for each weight its uses, each a pair of what stands on its two sides, (n, length, ·); one-hot rows are
            kept as ids, (n, length).
        vectors: (n, d) for each bias and norm.
    """

    matrices: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def squared_norms(self) -> Tensor:
        """(n,), of each text's whole gradient."""
        total = sum((vector.square().sum(1) for vector in self.vectors.values()), torch.zeros(()))
        for uses in self.matrices.values():
            for left in uses:
                for right in uses:
                    total = total + (_products(left[0], right[0]) * _products(left[1], right[1])).sum((1, 2))
        return total


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of all rows with all rows, (…, n, m); ids stand for one-hot rows."""
    if not left.is_floating_point() and not right.is_floating_point():
        return (left[..., :, None] == right[..., None, :]).float()
    if not right.is_floating_point():
        return _products(right, left).mT
    if not left.is_floating_point():
        return right.mT[left] if right.ndim == 2 else right.mT.gather(1, left[..., None].expand(-1, -1, right.shape[1]))
    return left @ right.mT


def factored_gradients(model: Any, batch: TextBatch, parameters: Sequence[str]) -> GradientFactors:
    """GradientFactors of each text's loss by the declared parameters, from one pass for all of them.

    Args:
        model: in eval mode.
        batch: texts.
        parameters: ``blocks`` (all linear maps but the unembedding, with biases), ``embeddings`` (all tables of
            embeddings, and the unembedding), ``norms``.
    """
    uses: list[tuple[nn.Module, Tensor, Tensor]] = []
    with _frozen(model), _watched(model, parameters, len(batch.input_ids), uses):
        total = text_losses(model, batch).sum()
    written = torch.autograd.grad(total, [output for *_, output in uses], allow_unused=True)
    written = [torch.zeros_like(use[2]) if one is None else one for use, one in zip(uses, written, strict=True)]
    names, found = {id(parameter): name for name, parameter in model.named_parameters()}, GradientFactors()
    for (module, read, _), derivative in zip(uses, written, strict=True):
        if isinstance(module, nn.Embedding):
            found.matrices.setdefault(names[id(module.weight)], []).append((read, derivative))
            continue
        if module.weight.ndim == 2:
            found.matrices.setdefault(names[id(module.weight)], []).append((derivative, read))
        else:
            _add(found.vectors, names[id(module.weight)], (derivative * _normed(module, read)).sum(1))
        if getattr(module, "bias", None) is not None:
            _add(found.vectors, names[id(module.bias)], derivative.sum(1))
    return found


def _add(vectors: dict[str, Tensor], name: str, vector: Tensor) -> None:
    vectors[name] = vectors[name] + vector if name in vectors else vector


def _normed(norm: nn.Module, read: Tensor) -> Tensor:
    """What a norm multiplies with its weight: all norms are affine in it, whether they add 1 to it or not."""
    with torch.no_grad():
        one, none = ({"weight": torch.full_like(norm.weight, value)} for value in (1.0, 0.0))
        return functional_call(norm, one, (read,)) - functional_call(norm, none, (read,))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients by parameters, so that the backward pass makes only those by activations."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in wanted:
            parameter.requires_grad_(required)


@contextmanager
def _watched(
    model: Any, parameters: Sequence[str], count: int, uses: list[tuple[nn.Module, Tensor, Tensor]]
) -> Iterator[None]:
    """Append module, input and output of every use of the declared parameters in a pass over so many texts."""
    unembedding = model.get_output_embeddings()

    def declared(module: nn.Module) -> bool:
        if isinstance(module, nn.Embedding) or module is unembedding:
            return "embeddings" in parameters
        if isinstance(module, nn.Linear | Conv1D):
            return "blocks" in parameters
        return "norms" in parameters and getattr(getattr(module, "weight", None), "ndim", 0) == 1

    def keep(module: nn.Module, read: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        ids, table = read[0], isinstance(module, nn.Embedding)
        if table:
            # Positions are embedded once for all texts, whose derivatives would then be one. Here the graph begins, since
            # no parameter wants a gradient.
            ids, output = ids.expand(count, -1), output.detach().expand(count, -1, -1).requires_grad_()
        if declared(module):
            uses.append((module, ids.detach(), output))
        return output if table else None

    known = (nn.Embedding, nn.Linear, Conv1D)
    hooks = [
        module.register_forward_hook(keep)
        for module in model.modules()
        if isinstance(module, known) or declared(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class QueryGradients:
    """GradientFactors of queries, ready for products with those of many documents.

    Raises:
        InfluenceError: a query's gradient is zero or not finite, so that it ranks nothing.
    """

    def __init__(
        self,
        model: Any,
        texts: Sequence[TokenizedText],
        parameters: Sequence[str],
        *,
        pad: int,
        batch_tokens: int,
        names: Sequence[str],
    ) -> None:
        self.model, self.parameters, self.pad, self.batch_tokens = model, parameters, pad, batch_tokens
        self.device, self.count = next(model.parameters()).device, len(texts)
        self.norms = torch.zeros(len(texts), device=self.device)
        self.vectors: dict[str, Tensor] = {}
        # For each use of each weight the rows of all queries, and the place in `owners` of the queries that they are of.
        self.rows: dict[str, list[tuple[Tensor, Tensor, int]]] = {}
        self.owners: list[Tensor] = []
        rows: dict[str, list[list[tuple[Tensor, Tensor, Tensor]]]] = {}
        for batch in self._batches(texts):
            found = factored_gradients(model, batch, parameters)
            at = torch.tensor(batch.indices, device=self.device)
            self.norms[at] = found.squared_norms().sqrt()
            for name, vector in found.vectors.items():
                self.vectors.setdefault(name, vector.new_zeros(len(texts), vector.shape[1]))[at] = vector
            for name, uses in found.matrices.items():
                parts = rows.setdefault(name, [[] for _ in uses])
                for part, (left, right) in zip(parts, uses, strict=True):
                    left, right, text = _alive(left, right)
                    part.append((left, right, at[text]))
        for name, parts in rows.items():
            for left, right, owner in (map(torch.cat, zip(*part, strict=True)) for part in parts):
                self.rows.setdefault(name, []).append((left, right, self._place(owner)))
        if (wrong := ~(self.norms.isfinite() & (self.norms > 0))).any():
            name = names[int(wrong.nonzero()[0])]
            raise InfluenceError(
                f"the gradient of query {name} has norm {self.norms[wrong][0].item()}: it ranks no document; check its "
                "completion, and that the loss is finite"
            )

    def _batches(self, texts: Sequence[TokenizedText]) -> Iterator[TextBatch]:
        return batch_texts(texts, self.pad, self.batch_tokens, self.device)

    def _place(self, owner: Tensor) -> int:
        """Most weights' rows have the same owners, so that their products are added up before they are dealt to queries."""
        for place, known in enumerate(self.owners):
            if torch.equal(known, owner):
                return place
        self.owners.append(owner)
        return len(self.owners) - 1

    def products(self, found: GradientFactors) -> Tensor:
        """Inner products with the gradients of a batch of texts, (n, queries)."""
        total = sum((vector @ self.vectors[name].T for name, vector in found.vectors.items()), torch.zeros(()))
        by_row: dict[int, Tensor] = {}
        for name, uses in found.matrices.items():
            for use in uses:
                left, right, text = _alive(*use)
                for query_left, query_right, owner in self.rows[name]:
                    into = by_row.setdefault(
                        owner, query_left.new_zeros(len(use[0]), len(query_left), dtype=torch.float)
                    )
                    for some in zip(left.split(_ROWS), right.split(_ROWS), text.split(_ROWS), strict=True):
                        both = _products(some[0], query_left).mul_(_products(some[1], query_right))
                        into.index_add_(0, some[2], both)
        for owner, sums in by_row.items():
            total = total + sums.new_zeros(len(sums), self.count).index_add_(1, self.owners[owner], sums)
        return total

    def dot_products(self, texts: Sequence[TokenizedText], *, norms: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Inner products with many texts, (queries, texts), and the texts' norms, (texts,), a batch at a time."""
        products, lengths = np.zeros((self.count, len(texts)), np.float32), np.zeros(len(texts), np.float32)
        for batch in self._batches(list(map(truncate_after_scored, texts))):
            found = factored_gradients(self.model, batch, self.parameters)
            products[:, batch.indices] = self.products(found).T.cpu().numpy()
            if norms:
                lengths[batch.indices] = found.squared_norms().clamp(min=0).sqrt().cpu().numpy()
        return products, lengths


def _alive(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of all texts whose derivative is not zero, and whose they are: most of a last layer's tokens have none."""
    kept = ((left if left.is_floating_point() else right) != 0).any(-1)
    return left[kept], right[kept], kept.nonzero()[:, 0]


def gradient_norms(
    model: Any, texts: Sequence[TokenizedText], parameters: Sequence[str], *, pad: int, batch_tokens: int
) -> np.ndarray:
    """Norm of each text's gradient, (texts,)."""
    found = np.zeros(len(texts), np.float32)
    for batch in batch_texts(
        list(map(truncate_after_scored, texts)), pad, batch_tokens, next(model.parameters()).device
    ):
        lengths = factored_gradients(model, batch, parameters).squared_norms().clamp(min=0).sqrt()
        found[batch.indices] = lengths.cpu().numpy()
    return found


def rank_by_gradient(
    load: Callable[[int], tuple[Any, Any]],
    texts: Callable[[Any, Any], tuple[list[TokenizedText], list[TokenizedText]]],
    settings: Gradient,
    names: Sequence[str],
    *,
    batch_tokens: int,
) -> np.ndarray:
    """Scores, (queries, documents): products of gradients, added up over checkpoints (Pruthi et al. 2020, TracInCP).

    The sum is not weighted by the learning rate, which no single number is where two optimizers step. A cosine is taken
    at each checkpoint. A document without scored tokens has no gradient, and 0.

    Args:
        load: model and tokenizer at a checkpoint, by its place among them.
        texts: of queries and documents, for a model and its tokenizer.
        settings: what is multiplied.
        names: of the queries, for errors.
        batch_tokens: tokens in a batch; no score depends on it.
    """
    total = 0.0
    for checkpoint in settings.checkpoints:
        model, tokenizer = load(checkpoint)
        asked, read = texts(model, tokenizer)
        queries = QueryGradients(
            model, asked, settings.parameters, pad=tokenizer.pad_token_id, batch_tokens=batch_tokens, names=names
        )
        products, norms = queries.dot_products(read, norms=settings.score != "dot")
        if settings.score != "dot":
            scale = queries.norms.cpu().numpy()[:, None] * norms
            products = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
        total = total + products
    return total - total.mean(0) if settings.score == "centred" else total
