"""Attribution graphs (Ameisen et al. 2025, circuit-tracer): direct effects between features, errors, tokens and logits."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from factlife.graphs.replacement import FrozenModel, LogitTarget
from factlife.saes.dictionary import Dictionary, DictionaryError

_BATCH = 64


class GraphError(ValueError):
    """A graph cannot be made; the text says what to do."""


@dataclass
class AttributionGraph:
    """Nodes and the direct effects between them, in the order features, errors (layer by layer), tokens, logits.

    Attributes:
        tokens: the prompt, token by token.
        ids: their ids.
        n_layers: of the model.
        features: (n_features, 3), layer, position and number of each active feature.
        activations: (n_features,).
        targets: what the graph explains.
        effects: (n_nodes, n_nodes), direct effect of the column's node on the row's: on its pre-activation or logit.
        bias: (n_nodes,), what depends on no node: biases, and what the beginning-of-sequence token's MLPs write.
        totals: (n_nodes,), pre-activation or logit in the model: the sum of a row's effects and its bias.
        omitted: active features left out because there are more than ``max_feature_nodes``; they count as error.
        max_logit_error: largest difference between the logits of the locally replaced model and the model's.
    """

    tokens: list[str]
    ids: list[int]
    n_layers: int
    features: Tensor
    activations: Tensor
    targets: list[LogitTarget]
    effects: Tensor
    bias: Tensor
    totals: Tensor
    omitted: int
    max_logit_error: float

    @property
    def parts(self) -> dict[str, slice]:
        """Where each kind of node is."""
        f, e, t = len(self.features), self.n_layers * len(self.tokens), len(self.tokens)
        return {
            "features": slice(0, f),
            "errors": slice(f, f + e),
            "tokens": slice(f + e, f + e + t),
            "logits": slice(f + e + t, len(self.effects)),
        }

    def about(self, targets: slice) -> AttributionGraph:
        """The same graph with some of its targets only."""
        first = self.parts["logits"].start
        keep = torch.arange(len(self.effects))
        keep = torch.cat([keep[:first], keep[first:][targets]])
        return replace(
            self, targets=self.targets[targets], effects=self.effects[keep][:, keep], bias=self.bias[keep],
            totals=self.totals[keep],
        )  # fmt: skip

    @property
    def weights(self) -> Tensor:
        """(n_nodes,), the targets' probabilities, 0 elsewhere."""
        weights = torch.zeros(len(self.effects), dtype=self.effects.dtype)
        weights[self.parts["logits"]] = torch.tensor([t.probability for t in self.targets], dtype=self.effects.dtype)
        return weights


def salient_logit_targets(
    logits: Tensor, words: Any, *, desired_logit_prob: float, max_n_logits: int, first: int | None = None
) -> list[LogitTarget]:
    """The most probable tokens up to a share of probability, each logit less the mean over the vocabulary.

    Args:
        logits: (vocabulary,), at the last position.
        words: text of a token id.
        desired_logit_prob: total probability that the tokens should reach.
        max_n_logits: maximum number of tokens.
        first: a token that is always one of them, and the first.
    """
    probabilities = logits.softmax(-1)
    order = probabilities.argsort(descending=True)
    count = int((probabilities[order].cumsum(0) < desired_logit_prob).sum()) + 1
    chosen = order[:count].tolist()
    if first is not None:
        chosen = [first, *(token for token in chosen if token != first)]
    uniform = torch.full_like(logits, 1 / len(logits))
    found = []
    for token in chosen[:max_n_logits]:
        weights = -uniform
        weights[token] += 1
        found.append(LogitTarget(words(token), token, float(probabilities[token]), weights))
    return found


def contrast_target(logits: Tensor, words: Any, right: int, wrong: int) -> LogitTarget:
    """The logit of the right token less that of a wrong one."""
    weights = torch.zeros_like(logits)
    weights[right], weights[wrong] = 1.0, -1.0
    return LogitTarget(f"{words(right)} − {words(wrong)}", None, 1.0, weights)


def feature_activations(held: FrozenModel, transcoders: list[Dictionary], skip: Tensor) -> list[Tensor]:
    """Activations of each layer's features, (n, d_sae); nothing at the positions in ``skip``, (n,)."""
    if len(transcoders) != held.parts.n_layers:
        raise GraphError(f"the model has {held.parts.n_layers} layers, but there are transcoders of {len(transcoders)}")
    if any(not transcoder.is_transcoder for transcoder in transcoders):
        raise DictionaryError(
            "graphs need transcoders, which read what an MLP reads; name one whose site is `transcoder`"
        )
    with torch.no_grad():
        found = [transcoder.encode(read) for transcoder, read in zip(transcoders, held.reads, strict=True)]
    return [a.masked_fill(skip[:, None], 0.0) for a in found]


def attribute(
    held: FrozenModel,
    transcoders: list[Dictionary],
    targets: list[LogitTarget],
    tokens: list[str],
    skip: Tensor,
    *,
    max_feature_nodes: int,
) -> AttributionGraph:
    """The attribution graph of one prompt.

    MLPs are replaced by transcoders plus error; attention patterns, norms and the errors are held, so that everything
    between the features is linear, and a row of direct effects is one gradient (Ameisen et al. 2025, section 3).

    Args:
        held: the prompt's pass.
        transcoders: a transcoder for each layer.
        targets: what is explained.
        tokens: the prompt, token by token.
        skip: (n,), positions whose MLPs have no features: special tokens, whose residual stream is the same in every
            prompt; what is written there is bias.
        max_feature_nodes: features that get a node, those of greatest influence first.
    """
    n, n_layers = len(tokens), held.parts.n_layers
    acts = feature_activations(held, transcoders, skip)
    places = torch.cat([_with_layer(layer, a.nonzero()) for layer, a in enumerate(acts)])
    strength = torch.cat([a[a != 0] for a in acts])
    decoded = [a @ transcoder.W_dec for a, transcoder in zip(acts, transcoders, strict=True)]
    constant = torch.stack([
        torch.where(skip[:, None], write, transcoder.b_dec) for write, transcoder in zip(held.writes, transcoders, strict=True)
    ])  # fmt: skip
    errors = torch.stack(held.writes) - torch.stack(decoded) - constant

    passes = _Passes(held, transcoders, constant)
    vectors = torch.cat(
        [a[a != 0][:, None] * c.W_dec[a.nonzero()[:, 1]] for a, c in zip(acts, transcoders, strict=True)]
    )
    f, device = len(places), held.embedding.device
    size = f + n_layers * n + n + len(targets)
    effects = torch.zeros(size, size, device=device)
    bias, totals, weights = torch.zeros(3, size, device=device)
    # Features are in the order of layers, then positions: those of one place are next to each other.
    counts = torch.stack([(a != 0).sum(-1) for a in acts]).flatten().tolist()
    starts = [0, *itertools.accumulate(counts)]

    def put(rows: Tensor, gradients: tuple[Tensor, Tensor, Tensor]) -> None:
        at_embedding, at_writes, constants = gradients
        found = torch.empty(len(rows), f, device=device)
        for place, (start, end) in enumerate(itertools.pairwise(starts)):
            found[:, start:end] = at_writes[place // n][:, place % n] @ vectors[start:end].T
        effects[rows, :f] = found
        effects[rows, f : f + n_layers * n] = torch.einsum("lbnd,lnd->bln", at_writes, errors).flatten(1)
        effects[rows, size - len(targets) - n : size - len(targets)] = (at_embedding * held.embedding).sum(-1)
        bias[rows] = constants

    logit_rows = torch.arange(size - len(targets), size, device=device)
    put(logit_rows, passes.logits(targets))
    totals[logit_rows] = held.values(targets, held.hidden[-1])
    visited = torch.zeros(f, dtype=torch.bool, device=device)
    weights[logit_rows] = torch.tensor([target.probability for target in targets], device=device)
    while int(visited.sum()) < min(f, max_feature_nodes):
        room = min(f, max_feature_nodes) - int(visited.sum())
        # Where all fit, their order is of no importance.
        rank = compute_node_influence(effects, weights)[:f] if f > max_feature_nodes else strength
        batch = rank.masked_fill(visited, -1.0).topk(min(room, 8 * _BATCH)).indices
        for rows in batch[places[batch, 0].argsort()].split(_BATCH):
            put(rows, passes.features(places[rows]))
        visited[batch] = True
    totals[:f] = strength
    # What has no node is not explained: it joins the error of its layer and position.
    columns = f + places[~visited, 0] * n + places[~visited, 1]
    effects.index_add_(1, columns, effects[:, :f][:, ~visited])
    keep = torch.cat([visited, torch.ones(size - f, dtype=torch.bool, device=device)])
    return AttributionGraph(
        tokens, held.ids[0].tolist(), n_layers, places[visited].cpu(), strength[visited].cpu(), targets,
        effects[keep][:, keep].cpu(), bias[keep].cpu(), totals[keep].cpu(), int((~visited).sum()),
        passes.replaced_logits(acts, errors),
    )  # fmt: skip


class _Passes:
    """One forward pass over the held model with what MLPs write as variables; each row of effects is a gradient of it."""

    def __init__(self, held: FrozenModel, transcoders: list[Dictionary], constant: Tensor) -> None:
        self.held, self.transcoders, self.constant = held, transcoders, constant
        rows = (_BATCH, -1, -1)
        self.embedding = held.embedding.expand(*rows).clone().requires_grad_()
        self.writes = [write.expand(*rows).clone().requires_grad_() for write in held.writes]
        self.reads, self.hidden = held.run(self.embedding, lambda layer, *_: self.writes[layer])
        with torch.no_grad():
            nothing = torch.zeros_like(held.embedding)[None]
            self.reads_of_nothing, self.hidden_of_nothing = held.run(nothing, lambda *_: nothing)

    def features(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of features' pre-activations, and what of them depends on no node.

        Args:
            places: (rows, 3), layer, position and number of features, no more than a batch.

        Returns:
            At the embedding, (rows, n, d_model); at what MLPs write, (layers, rows, n, d_model); constants, (rows,).
        """
        pairs = [
            (self.reads[layer][row, position], self.transcoders[layer].W_enc[:, feature])
            for row, (layer, position, feature) in enumerate(places.tolist())
        ]
        found = self._gradients(sum((read * encoder).sum() for read, encoder in pairs), len(places))
        constants = [
            float(self.reads_of_nothing[layer][0, position] @ self.transcoders[layer].W_enc[:, feature])
            + float(self.transcoders[layer].b_enc[feature])
            for layer, position, feature in places.tolist()
        ]
        return (*found[:2], found[2] + torch.tensor(constants, device=found[2].device))

    def logits(self, targets: list[LogitTarget]) -> tuple[Tensor, Tensor, Tensor]:
        """The same of targets."""
        values = self.held.values(targets, self.hidden[: len(targets), -1])
        found = self._gradients(values.diagonal().sum(), len(targets))
        return (*found[:2], found[2] + self.held.values(targets, self.hidden_of_nothing[0, -1]))

    def _gradients(self, total: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        at_embedding, *at_writes = torch.autograd.grad(
            total, [self.embedding, *self.writes], retain_graph=True, materialize_grads=True
        )
        writes = torch.stack([gradient[:rows] for gradient in at_writes])
        return at_embedding[:rows], writes, torch.einsum("lbnd,lnd->b", writes, self.constant)

    @torch.no_grad()
    def replaced_logits(self, acts: list[Tensor], errors: Tensor) -> float:
        """Largest difference of logits when MLPs are replaced by transcoders plus error, nothing else held."""

        def mlp(layer: int, read: Tensor, _: Tensor) -> Tensor:
            active = self.transcoders[layer].encode(read) * (acts[layer].sum(-1, keepdim=True) != 0)
            return active @ self.transcoders[layer].W_dec + self.constant[layer] + errors[layer]

        _, hidden = self.held.run(self.held.embedding[None], mlp, free=True)
        said = self.held.parts.unembedding(hidden[0]) * self.held.parts.logit_scale
        true = self.held.parts.unembedding(self.held.hidden) * self.held.parts.logit_scale
        return float((said - true).abs().max())


def _with_layer(layer: int, places: Tensor) -> Tensor:
    return torch.cat([torch.full_like(places[:, :1], layer), places], 1)


def normalize_matrix(effects: Tensor) -> Tensor:
    """Each row's absolute effects as shares of their sum."""
    size = effects.abs()
    return size / size.sum(1, keepdim=True).clamp(min=1e-10)


def compute_node_influence(effects: Tensor, weights: Tensor) -> Tensor:
    """Σ_{k≥1} w Aᵏ for the row-normalised |A|: how much of the targets goes through each node, over all paths."""
    normalised, total = normalize_matrix(effects), torch.zeros_like(weights)
    now = weights @ normalised
    while now.any():
        total += now
        now = now @ normalised
    return total


@dataclass(frozen=True)
class PrunedGraph:
    """What is shown of a graph.

    Attributes:
        nodes: (n_nodes,), which are kept.
        edges: (n_nodes, n_nodes), which are kept.
        rank: (n_nodes,), cumulative share of influence of all nodes at least as influential: small is important.
    """

    nodes: Tensor
    edges: Tensor
    rank: Tensor


def prune_graph(graph: AttributionGraph, *, node_threshold: float, edge_threshold: float) -> PrunedGraph:
    """Keep the fewest nodes, then the fewest edges, that hold given shares of influence (circuit-tracer's rule).

    Tokens and targets are always kept; features and errors that lead nowhere, and features that nothing leads to, go.
    """
    part, weights = graph.parts, graph.weights
    through = compute_node_influence(graph.effects, weights)
    rank = cumulative_scores(through)
    nodes = through >= find_threshold(through, node_threshold)
    nodes[part["tokens"]] = nodes[part["logits"]] = True
    kept = graph.effects * nodes[:, None] * nodes
    scores = normalize_matrix(kept) * (compute_node_influence(kept, weights) + weights)[:, None]
    edges = (scores >= find_threshold(scores.flatten(), edge_threshold)) & (scores > 0)
    inner = slice(0, part["tokens"].start)
    while True:
        before = int(nodes.sum())
        nodes[inner] &= edges[:, inner].any(0)
        nodes[part["features"]] &= edges[part["features"]].any(1)
        edges &= nodes[:, None] & nodes
        if int(nodes.sum()) == before:
            return PrunedGraph(nodes, edges, rank)


def find_threshold(scores: Tensor, share: float) -> Tensor:
    """The smallest of the largest scores that together have a share of all."""
    ordered = scores.sort(descending=True).values
    total = ordered.cumsum(0)
    return ordered[min(int((total < share * total[-1]).sum()), len(ordered) - 1)]


def cumulative_scores(scores: Tensor) -> Tensor:
    """For each score the share of all that it has together with those above it."""
    order = scores.argsort(descending=True, stable=True)
    found = torch.empty_like(scores)
    found[order] = scores[order].cumsum(0) / scores.sum().clamp(min=1e-30)
    return found


def compute_graph_scores(graph: AttributionGraph) -> tuple[float, float]:
    """Replacement and completeness score, both of the unpruned graph.

    Replacement: influence of tokens over that of tokens and errors. Completeness: mean over nodes, weighted by
    influence, of the share of their input that is no error.
    """
    part, through = graph.parts, compute_node_influence(graph.effects, graph.weights)
    tokens, errors = through[part["tokens"]].sum(), through[part["errors"]].sum()
    explained = 1 - normalize_matrix(graph.effects)[:, part["errors"]].sum(1)
    weight = through + graph.weights
    return float(tokens / (tokens + errors)), float((explained * weight).sum() / weight.sum())


def total_effects(graph: AttributionGraph) -> Tensor:
    """(n_targets, n_features): change of each target when a feature is doubled, through all paths.

    With the active set fixed everything is linear: a feature whose pre-activation changes by a share of itself
    writes that share more. E = A_logits (I − D⁻¹ A_features)⁻¹, D = diag(pre-activations).
    """
    part = graph.parts
    inner = (graph.effects[part["features"], part["features"]] / graph.totals[part["features"], None]).double()
    outer = graph.effects[part["logits"], part["features"]].double()
    return torch.linalg.solve(torch.eye(len(inner), dtype=torch.double) - inner, outer, left=False).float()
