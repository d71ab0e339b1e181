"""Attribution graphs (Ameisen et al. 2025, circuit-tracer): direct effects between features, errors, tokens and logits."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from factlife.graphs.replacement import FrozenModel, LogitTarget
from factlife.saes.dictionary import Dictionary, DictionaryError

_BATCH_SIZE = 64


class GraphError(ValueError):
    """A graph cannot be built; the message names the remedy."""


@dataclass
class AttributionGraph:
    """Nodes and the direct effects between them, in the order features, errors (layer by layer), tokens, logits.

    Attributes:
        tokens: the tokens of the prompt.
        ids: their ids.
        n_layers: number of layers of the model.
        features: (n_features, 3), layer, position and index of each active feature.
        activations: (n_features,).
        targets: attribution targets.
        effects: (n_nodes, n_nodes), direct effect of the column's node on the pre-activation or logit of the row's.
        bias: (n_nodes,), input that comes from no node: biases, and MLP outputs at special tokens.
        totals: (n_nodes,), pre-activation or logit in the model: the sum of a row's effects and its bias.
        n_omitted: active features left out because there are more than ``max_feature_nodes``; they count as error.
        max_logit_error: largest difference between the logits of the local replacement model and the model's.
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
    n_omitted: int
    max_logit_error: float

    @property
    def node_slices(self) -> dict[str, slice]:
        """Range of the nodes of each kind."""
        f, e, t = len(self.features), self.n_layers * len(self.tokens), len(self.tokens)
        return {
            "features": slice(0, f),
            "errors": slice(f, f + e),
            "tokens": slice(f + e, f + e + t),
            "logits": slice(f + e + t, len(self.effects)),
        }

    def select_targets(self, targets: slice) -> AttributionGraph:
        """The same graph with some of its targets only."""
        first = self.node_slices["logits"].start
        keep = torch.arange(len(self.effects))
        keep = torch.cat([keep[:first], keep[first:][targets]])
        return replace(
            self, targets=self.targets[targets], effects=self.effects[keep][:, keep], bias=self.bias[keep],
            totals=self.totals[keep],
        )  # fmt: skip

    @property
    def logit_weights(self) -> Tensor:
        """(n_nodes,), the targets' probabilities, 0 elsewhere."""
        weights = torch.zeros(len(self.effects), dtype=self.effects.dtype)
        probabilities = [target.probability for target in self.targets]
        weights[self.node_slices["logits"]] = torch.tensor(probabilities, dtype=self.effects.dtype)
        return weights


def salient_logit_targets(
    logits: Tensor, decode: Any, *, desired_logit_prob: float, max_n_logits: int, first: int | None = None
) -> list[LogitTarget]:
    """The most probable tokens up to a total probability, each logit minus the mean over the vocabulary.

    Args:
        logits: (vocabulary,), at the last position.
        decode: text of a token id.
        desired_logit_prob: total probability that the tokens should reach.
        max_n_logits: maximum number of tokens.
        first: a token to include always, as the first target.
    """
    probabilities = logits.softmax(-1)
    order = probabilities.argsort(descending=True)
    n_tokens = int((probabilities[order].cumsum(0) < desired_logit_prob).sum()) + 1
    tokens = order[:n_tokens].tolist()
    if first is not None:
        tokens = [first, *(token for token in tokens if token != first)]
    uniform = torch.full_like(logits, 1 / len(logits))
    targets = []
    for token in tokens[:max_n_logits]:
        weights = -uniform
        weights[token] += 1
        targets.append(LogitTarget(decode(token), token, float(probabilities[token]), weights))
    return targets


def contrast_target(logits: Tensor, decode: Any, correct: int, wrong: int) -> LogitTarget:
    """The logit of the correct token minus that of a wrong one."""
    weights = torch.zeros_like(logits)
    weights[correct], weights[wrong] = 1.0, -1.0
    return LogitTarget(f"{decode(correct)} − {decode(wrong)}", None, 1.0, weights)


def feature_activations(frozen_model: FrozenModel, transcoders: list[Dictionary], skip: Tensor) -> list[Tensor]:
    """Feature activations of each layer, (n, d_sae); 0 at the positions in ``skip``, (n,)."""
    if len(transcoders) != frozen_model.parts.n_layers:
        raise GraphError(
            f"the model has {frozen_model.parts.n_layers} layers, but there are transcoders of {len(transcoders)}"
        )
    if any(not transcoder.is_transcoder for transcoder in transcoders):
        raise DictionaryError(
            "graphs need transcoders, which encode the input of an MLP; name one whose site is `transcoder`"
        )
    with torch.no_grad():
        activations = [transcoder.encode(x) for transcoder, x in zip(transcoders, frozen_model.mlp_inputs, strict=True)]
    return [a.masked_fill(skip[:, None], 0.0) for a in activations]


def attribute(
    frozen_model: FrozenModel,
    transcoders: list[Dictionary],
    targets: list[LogitTarget],
    tokens: list[str],
    skip: Tensor,
    *,
    max_feature_nodes: int,
) -> AttributionGraph:
    """Build the attribution graph of one prompt.

    Transcoders plus error replace the MLPs; attention patterns, norms and errors are frozen. The paths between features
    are then linear, and one gradient gives a row of direct effects (Ameisen et al. 2025, section 3).

    Args:
        frozen_model: the model, frozen on the prompt.
        transcoders: one per layer.
        targets: attribution targets.
        tokens: the tokens of the prompt.
        skip: (n,), positions without features: special tokens, whose residual stream is the same in every prompt; MLP
            outputs at these positions are bias.
        max_feature_nodes: maximum number of feature nodes; the most influential features come first.
    """
    n, n_layers = len(tokens), frozen_model.parts.n_layers
    acts = feature_activations(frozen_model, transcoders, skip)
    features = torch.cat([_with_layer(layer, a.nonzero()) for layer, a in enumerate(acts)])
    strengths = torch.cat([a[a != 0] for a in acts])
    decoded = [a @ transcoder.W_dec for a, transcoder in zip(acts, transcoders, strict=True)]
    constant = torch.stack(
        [
            torch.where(skip[:, None], output, transcoder.b_dec)
            for output, transcoder in zip(frozen_model.mlp_outputs, transcoders, strict=True)
        ]
    )
    errors = torch.stack(frozen_model.mlp_outputs) - torch.stack(decoded) - constant

    gradients = _EffectGradients(frozen_model, transcoders, constant)
    vectors = torch.cat(
        [
            a[a != 0][:, None] * transcoder.W_dec[a.nonzero()[:, 1]]
            for a, transcoder in zip(acts, transcoders, strict=True)
        ]
    )
    f, device = len(features), frozen_model.embedding.device
    size = f + n_layers * n + n + len(targets)
    effects = torch.zeros(size, size, device=device)
    bias, totals, weights = torch.zeros(3, size, device=device)
    # Features are sorted by layer, then by position: those of one layer and position are next to each other.
    counts = torch.stack([(a != 0).sum(-1) for a in acts]).flatten().tolist()
    starts = [0, *itertools.accumulate(counts)]

    def fill_rows(rows: Tensor, row_gradients: tuple[Tensor, Tensor, Tensor]) -> None:
        at_embedding, at_outputs, constants = row_gradients
        feature_effects = torch.empty(len(rows), f, device=device)
        for cell, (start, end) in enumerate(itertools.pairwise(starts)):
            feature_effects[:, start:end] = at_outputs[cell // n][:, cell % n] @ vectors[start:end].T
        effects[rows, :f] = feature_effects
        effects[rows, f : f + n_layers * n] = torch.einsum("lbnd,lnd->bln", at_outputs, errors).flatten(1)
        effects[rows, size - len(targets) - n : size - len(targets)] = (at_embedding * frozen_model.embedding).sum(-1)
        bias[rows] = constants

    logit_rows = torch.arange(size - len(targets), size, device=device)
    fill_rows(logit_rows, gradients.of_targets(targets))
    totals[logit_rows] = frozen_model.target_values(targets, frozen_model.hidden[-1])
    visited = torch.zeros(f, dtype=torch.bool, device=device)
    weights[logit_rows] = torch.tensor([target.probability for target in targets], device=device)
    while int(visited.sum()) < min(f, max_feature_nodes):
        n_remaining = min(f, max_feature_nodes) - int(visited.sum())
        # If all features fit, their order does not matter.
        rank = compute_node_influence(effects, weights)[:f] if f > max_feature_nodes else strengths
        batch = rank.masked_fill(visited, -1.0).topk(min(n_remaining, 8 * _BATCH_SIZE)).indices
        for rows in batch[features[batch, 0].argsort()].split(_BATCH_SIZE):
            fill_rows(rows, gradients.of_features(features[rows]))
        visited[batch] = True
    totals[:f] = strengths
    # Features without a node join the error node of their layer and position.
    columns = f + features[~visited, 0] * n + features[~visited, 1]
    effects.index_add_(1, columns, effects[:, :f][:, ~visited])
    keep = torch.cat([visited, torch.ones(size - f, dtype=torch.bool, device=device)])
    return AttributionGraph(
        tokens=tokens,
        ids=frozen_model.ids[0].tolist(),
        n_layers=n_layers,
        features=features[visited].cpu(),
        activations=strengths[visited].cpu(),
        targets=targets,
        effects=effects[keep][:, keep].cpu(),
        bias=bias[keep].cpu(),
        totals=totals[keep].cpu(),
        n_omitted=int((~visited).sum()),
        max_logit_error=gradients.max_logit_error(acts, errors),
    )


class _EffectGradients:
    """One forward pass of the frozen model with MLP outputs as variables; each row of effects is a gradient of it."""

    def __init__(self, frozen_model: FrozenModel, transcoders: list[Dictionary], constant: Tensor) -> None:
        self.frozen_model, self.transcoders, self.constant = frozen_model, transcoders, constant
        shape = (_BATCH_SIZE, -1, -1)
        self.embedding = frozen_model.embedding.expand(*shape).clone().requires_grad_()
        self.mlp_outputs = [output.expand(*shape).clone().requires_grad_() for output in frozen_model.mlp_outputs]
        self.mlp_inputs, self.hidden = frozen_model.run(self.embedding, lambda layer, *_: self.mlp_outputs[layer])
        with torch.no_grad():
            zeros = torch.zeros_like(frozen_model.embedding)[None]
            self.mlp_inputs_of_zeros, self.hidden_of_zeros = frozen_model.run(zeros, lambda *_: zeros)

    def of_features(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of features' pre-activations, and the part of each pre-activation that comes from no node.

        Args:
            features: (rows, 3), layer, position and index of features, at most one batch.

        Returns:
            Gradients at the embedding, (rows, n, d_model), and at MLP outputs, (layers, rows, n, d_model); constants,
            (rows,).
        """
        pairs = [
            (self.mlp_inputs[layer][row, position], self.transcoders[layer].W_enc[:, feature])
            for row, (layer, position, feature) in enumerate(features.tolist())
        ]
        total = sum((x * encoder).sum() for x, encoder in pairs)
        at_embedding, at_outputs, constants = self._gradients(total, len(features))
        biases = [
            float(self.mlp_inputs_of_zeros[layer][0, position] @ self.transcoders[layer].W_enc[:, feature])
            + float(self.transcoders[layer].b_enc[feature])
            for layer, position, feature in features.tolist()
        ]
        return at_embedding, at_outputs, constants + torch.tensor(biases, device=constants.device)

    def of_targets(self, targets: list[LogitTarget]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the targets' values, and the part of each value that comes from no node."""
        values = self.frozen_model.target_values(targets, self.hidden[: len(targets), -1])
        at_embedding, at_outputs, constants = self._gradients(values.diagonal().sum(), len(targets))
        biases = self.frozen_model.target_values(targets, self.hidden_of_zeros[0, -1])
        return at_embedding, at_outputs, constants + biases

    def _gradients(self, total: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        at_embedding, *at_outputs = torch.autograd.grad(
            total, [self.embedding, *self.mlp_outputs], retain_graph=True, materialize_grads=True
        )
        stacked = torch.stack([gradient[:rows] for gradient in at_outputs])
        return at_embedding[:rows], stacked, torch.einsum("lbnd,lnd->b", stacked, self.constant)

    @torch.no_grad()
    def max_logit_error(self, acts: list[Tensor], errors: Tensor) -> float:
        """Largest difference of logits if transcoders plus error replace the MLPs and nothing is frozen."""

        def mlp(layer: int, x: Tensor, _: Tensor) -> Tensor:
            a = self.transcoders[layer].encode(x) * (acts[layer].sum(-1, keepdim=True) != 0)
            return a @ self.transcoders[layer].W_dec + self.constant[layer] + errors[layer]

        parts = self.frozen_model.parts
        _, hidden = self.frozen_model.run(self.frozen_model.embedding[None], mlp, unfrozen=True)
        replaced = parts.unembedding(hidden[0]) * parts.logit_scale
        original = parts.unembedding(self.frozen_model.hidden) * parts.logit_scale
        return float((replaced - original).abs().max())


def _with_layer(layer: int, indices: Tensor) -> Tensor:
    return torch.cat([torch.full_like(indices[:, :1], layer), indices], 1)


def normalize_matrix(effects: Tensor) -> Tensor:
    """Absolute effects, with rows that sum to 1."""
    absolute = effects.abs()
    return absolute / absolute.sum(1, keepdim=True).clamp(min=1e-10)


def compute_node_influence(effects: Tensor, logit_weights: Tensor) -> Tensor:
    """Influence of each node on the targets over all paths: Σ_{k≥1} w Aᵏ for the row-normalised |A|."""
    normalized, influence = normalize_matrix(effects), torch.zeros_like(logit_weights)
    contribution = logit_weights @ normalized
    while contribution.any():
        influence += contribution
        contribution = contribution @ normalized
    return influence


@dataclass(frozen=True)
class PrunedGraph:
    """The nodes and edges that remain after pruning.

    Attributes:
        node_mask: (n_nodes,).
        edge_mask: (n_nodes, n_nodes).
        cumulative_scores: (n_nodes,), fraction of influence of all nodes at least as influential; influential nodes
            have small values.
    """

    node_mask: Tensor
    edge_mask: Tensor
    cumulative_scores: Tensor


def prune_graph(graph: AttributionGraph, *, node_threshold: float, edge_threshold: float) -> PrunedGraph:
    """Keep the fewest nodes, then the fewest edges, with given fractions of influence (circuit-tracer's rule).

    Tokens and targets are always kept. Features and errors without outgoing edges, and features without incoming edges,
    are dropped.
    """
    nodes, weights = graph.node_slices, graph.logit_weights
    influence = compute_node_influence(graph.effects, weights)
    node_mask = influence >= find_threshold(influence, node_threshold)
    node_mask[nodes["tokens"]] = node_mask[nodes["logits"]] = True
    effects = graph.effects * node_mask[:, None] * node_mask
    edge_scores = normalize_matrix(effects) * (compute_node_influence(effects, weights) + weights)[:, None]
    edge_mask = (edge_scores >= find_threshold(edge_scores.flatten(), edge_threshold)) & (edge_scores > 0)
    inner = slice(0, nodes["tokens"].start)
    while True:
        n_nodes = int(node_mask.sum())
        node_mask[inner] &= edge_mask[:, inner].any(0)
        node_mask[nodes["features"]] &= edge_mask[nodes["features"]].any(1)
        edge_mask &= node_mask[:, None] & node_mask
        if int(node_mask.sum()) == n_nodes:
            return PrunedGraph(node_mask, edge_mask, cumulative_scores(influence))


def find_threshold(scores: Tensor, fraction: float) -> Tensor:
    """The smallest of the largest scores that together reach a fraction of the sum."""
    ordered = scores.sort(descending=True).values
    cumulative = ordered.cumsum(0)
    return ordered[min(int((cumulative < fraction * cumulative[-1]).sum()), len(ordered) - 1)]


def cumulative_scores(scores: Tensor) -> Tensor:
    """For each score, the fraction of the sum that it and all larger scores have together."""
    order = scores.argsort(descending=True, stable=True)
    cumulative = torch.empty_like(scores)
    cumulative[order] = scores[order].cumsum(0) / scores.sum().clamp(min=1e-30)
    return cumulative


def compute_graph_scores(graph: AttributionGraph) -> tuple[float, float]:
    """Replacement and completeness score, both of the unpruned graph.

    Replacement: influence of tokens over that of tokens and errors. Completeness: mean over nodes, weighted by
    influence, of the fraction of their input that does not come from errors.
    """
    nodes, influence = graph.node_slices, compute_node_influence(graph.effects, graph.logit_weights)
    tokens, errors = influence[nodes["tokens"]].sum(), influence[nodes["errors"]].sum()
    non_error_fractions = 1 - normalize_matrix(graph.effects)[:, nodes["errors"]].sum(1)
    weights = influence + graph.logit_weights
    return float(tokens / (tokens + errors)), float((non_error_fractions * weights).sum() / weights.sum())


def total_effects(graph: AttributionGraph) -> Tensor:
    """(n_targets, n_features): change of each target when a feature is doubled, through all paths.

    With the set of active features fixed, everything is linear: if a feature's pre-activation changes by a fraction, so
    does its output. E = A_logits (I − D⁻¹ A_features)⁻¹, D = diag(pre-activations).
    """
    nodes = graph.node_slices
    inner = (graph.effects[nodes["features"], nodes["features"]] / graph.totals[nodes["features"], None]).double()
    outer = graph.effects[nodes["logits"], nodes["features"]].double()
    return torch.linalg.solve(torch.eye(len(inner), dtype=torch.double) - inner, outer, left=False).float()
