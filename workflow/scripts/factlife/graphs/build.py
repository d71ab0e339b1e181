"""Attribution graphs of a model's facts: selection of prompts, scores, interventions and pages."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from factlife.config.graphs import Graphs
from factlife.graphs import interventions
from factlife.graphs.export import GraphPage, Supernode, choose_pinned_nodes
from factlife.graphs.graph import (
    AttributionGraph,
    GraphError,
    PrunedGraph,
    attribute,
    compute_graph_scores,
    contrast_target,
    feature_activations,
    prune_graph,
    salient_logit_targets,
)
from factlife.graphs.replacement import FrozenModel
from factlife.recall.score import AnswerTokens
from factlife.saes.activations import special_tokens_mask
from factlife.saes.dictionary import Dictionary
from factlife.saes.quality import forward_probes
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A graph explains the logits of the answer and its rivals, or the answer's logit minus that of the strongest wrong one.
ATTRIBUTION_TARGETS = ("answer", "contrast")


class GraphPrompt(NamedTuple):
    """A prompt whose answer is to be explained.

    Attributes:
        name: name of the page: the fact's id, or the name of a custom prompt.
        relation: relation of the fact; empty for custom prompts.
        prompt: text.
        ids: token ids of the text.
        answer: id of the token that should follow.
        wrong: token ids of wrong answers, of which the strongest is the contrast; empty for all other tokens.
        has_page: whether it gets a page.
    """

    name: str
    relation: str
    prompt: str
    ids: tuple[int, ...]
    answer: int
    wrong: tuple[int, ...]
    has_page: bool

    @property
    def subject(self) -> str:
        """Subject of the fact."""
        return self.name.split(".")[0]


@dataclass
class GraphResults:
    """Graphs, scores and interventions of all prompts.

    Attributes:
        pages: one graph per page.
        scores: one row per fact and attribution target.
        interventions: one row per fact, attribution target, feature and steering factor.
    """

    pages: list[GraphPage] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    interventions: list[pd.DataFrame] = field(default_factory=list)


def build_attribution_graphs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    transcoders: list[Dictionary],
    labels: pd.Series,
    settings: Graphs,
) -> GraphResults:
    """Build attribution graphs of facts and of custom prompts, and intervene on their features.

    Args:
        model: the model, in eval mode.
        tokenizer: its tokenizer.
        world: the world of the facts.
        transcoders: one per layer.
        labels: labels of features, by layer and index.
        settings: settings of the graphs.

    Raises:
        GraphError: a named fact has no forward probe, or an answer is not a single token.
    """
    results = GraphResults()
    for prompt in select_prompts(model, tokenizer, world, settings):
        ids = torch.tensor([prompt.ids], device=next(model.parameters()).device)
        frozen_model = FrozenModel(model, ids)
        full_graph, acts = _attribute_prompt(frozen_model, tokenizer, transcoders, prompt, settings)
        recalled = int(frozen_model.logits[-1].argmax()) == prompt.answer
        graphs = {
            "answer": full_graph.select_targets(slice(0, -1)),
            "contrast": full_graph.select_targets(slice(-1, None)),
        }
        pruned = {
            name: prune_graph(graph, node_threshold=settings.node_threshold, edge_threshold=settings.edge_threshold)
            for name, graph in graphs.items()
        }
        effects = _intervene(frozen_model, transcoders, acts, full_graph, list(pruned.values()), settings)
        for name, graph in graphs.items():
            keys = {
                "fact_id": prompt.name,
                "relation": prompt.relation,
                "recalled": recalled,
                "attribution_target": name,
            }
            scores = keys | _graph_scores(graph, pruned[name])
            column = 0 if name == "answer" else len(full_graph.targets) - 1
            table = _intervention_table(full_graph, effects, column, pruned[name]).assign(**keys)
            results.scores.append(scores)
            results.interventions.append(table)
            if prompt.has_page:
                pinned, supernodes = choose_pinned_nodes(graph, pruned[name], labels)
                _ablate_supernodes(frozen_model, transcoders, acts, graph, supernodes)
                results.pages.append(
                    GraphPage(
                        name=prompt.name,
                        attribution_target=name,
                        prompt=prompt.prompt,
                        graph=graph,
                        pruned=pruned[name],
                        scores=scores,
                        interventions=table,
                        labels=labels,
                        pinned=pinned,
                        supernodes=supernodes,
                    )
                )
        score = scores["replacement_score"]
        logging.info("%s: %d features, replacement score %.3f", prompt.name, len(full_graph.features), score)
    return results


def select_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, settings: Graphs
) -> list[GraphPrompt]:
    """Custom prompts, named facts, then facts of the panel: recalled ones first, taking turns between relations."""
    answers = AnswerTokens(tokenizer)
    fact_ids = settings.pages if isinstance(settings.pages, list) else []
    probes = forward_probes(world.facts, world.probes)
    if unknown := sorted(set(fact_ids) - set(probes["fact_id"])):
        raise GraphError(f"graphs.pages: there is no forward probe of {', '.join(unknown)}")
    custom_prompts = [
        _graph_prompt(
            answers, name, "", custom.prompt, custom.answer,
            [custom.wrong_answer] if custom.wrong_answer else [], has_page=True,
        )
        for name, custom in settings.prompts.items()
    ]  # fmt: skip
    in_panel = probes["panel"] if probes["panel"].any() else True
    candidates = []
    for probe in probes[probes["fact_id"].isin(fact_ids) | in_panel].drop_duplicates("fact_id").itertuples():
        is_named = probe.fact_id in fact_ids
        if len(answers.encode_after(probe.prompt, probe.target)) != 1 and not is_named:
            continue
        wrong = [value for value in probe.candidates if value != probe.target]
        candidates.append(
            _graph_prompt(answers, probe.fact_id, probe.relation, probe.prompt, probe.target, wrong, has_page=is_named)
        )
    n_facts = max(settings.scored_facts - len(custom_prompts), len(fact_ids))
    prompts = [prompt for prompt in candidates if prompt.has_page]
    if n_facts > len(prompts):
        recalled = dict(zip(candidates, _recalled(model, candidates), strict=True))
        prompts += _in_turn([prompt for prompt in candidates if not prompt.has_page and recalled[prompt]])
        prompts += _in_turn([prompt for prompt in candidates if not prompt.has_page and not recalled[prompt]])
    n_pages = settings.pages if isinstance(settings.pages, int) else len(fact_ids)
    return custom_prompts + [prompt._replace(has_page=i < n_pages) for i, prompt in enumerate(prompts[:n_facts])]


def _in_turn(prompts: list[GraphPrompt]) -> list[GraphPrompt]:
    """Take turns between relations, and prefer facts of subjects that have not had a turn yet."""
    remaining: dict[str, list[GraphPrompt]] = defaultdict(list)
    for prompt in prompts:
        remaining[prompt.relation].append(prompt)
    ordered, subjects = [], set()
    while remaining:
        for relation in list(remaining):
            of_new_subjects = (prompt for prompt in remaining[relation] if prompt.subject not in subjects)
            prompt = next(of_new_subjects, remaining[relation][0])
            remaining[relation].remove(prompt)
            ordered.append(prompt)
            subjects.add(prompt.subject)
            if not remaining[relation]:
                del remaining[relation]
    return ordered


def _graph_prompt(
    answers: AnswerTokens, name: str, relation: str, prompt: str, answer: str, wrong: list[str], *, has_page: bool
) -> GraphPrompt:
    target = answers.encode_after(prompt, answer)
    if len(target) != 1:
        raise GraphError(
            f"{name}: a graph explains a single token, but {answer!r} after {prompt!r} has {len(target)} tokens"
        )
    wrong_ids = tuple(ids[0] for value in wrong if (ids := answers.encode(value)) and ids[0] != target[0])
    prompt_ids = tuple(answers.tokenizer(prompt)["input_ids"])
    return GraphPrompt(name, relation, prompt, prompt_ids, target[0], wrong_ids, has_page)


@torch.no_grad()
def _recalled(model: PreTrainedModel, prompts: list[GraphPrompt]) -> list[bool]:
    device = next(model.parameters()).device
    logits = [
        model(input_ids=torch.tensor([prompt.ids], device=device), use_cache=False, logits_to_keep=1).logits[0, -1]
        for prompt in prompts
    ]
    return [int(row.argmax()) == prompt.answer for row, prompt in zip(logits, prompts, strict=True)]


def _attribute_prompt(
    frozen_model: FrozenModel,
    tokenizer: PreTrainedTokenizerBase,
    transcoders: list[Dictionary],
    prompt: GraphPrompt,
    settings: Graphs,
) -> tuple[AttributionGraph, list[Tensor]]:
    """One graph with all targets, the contrast last, and the feature activations of each layer."""
    logits = frozen_model.logits[-1]
    rivals = torch.tensor(prompt.wrong or [id_ for id_ in range(len(logits)) if id_ != prompt.answer])
    wrong = int(rivals[logits[rivals].argmax()])

    def decode(id_: int) -> str:
        return tokenizer.decode([id_])

    targets = salient_logit_targets(
        logits,
        decode,
        desired_logit_prob=settings.desired_logit_prob,
        max_n_logits=settings.max_n_logits,
        first=prompt.answer,
    )
    targets.append(contrast_target(logits, decode, prompt.answer, wrong))
    skip = special_tokens_mask(tokenizer, frozen_model.ids[0])
    tokens = [decode(id_) for id_ in prompt.ids]
    graph = attribute(frozen_model, transcoders, targets, tokens, skip, max_feature_nodes=settings.max_feature_nodes)
    return graph, feature_activations(frozen_model, transcoders, skip)


def _graph_scores(graph: AttributionGraph, pruned: PrunedGraph) -> dict[str, Any]:
    """Scores of a graph, its size, and its numerical errors."""
    sums, nodes = graph.effects.sum(1) + graph.bias, graph.node_slices
    rows = torch.cat([torch.arange(nodes[kind].start, nodes[kind].stop) for kind in ("features", "logits")])
    errors = (sums - graph.totals)[rows].abs() / graph.totals[rows].abs().clamp(min=1e-3)
    replacement, completeness = compute_graph_scores(graph)
    return {
        "replacement_score": replacement,
        "completeness_score": completeness,
        "active_features": len(graph.features) + graph.n_omitted,
        "omitted_features": graph.n_omitted,
        "nodes": len(graph.effects),
        "nodes_after_pruning": int(pruned.node_mask.sum()),
        "edges_after_pruning": int(pruned.edge_mask.sum()),
        "max_logit_error": graph.max_logit_error,
        "max_row_error": float(errors.max()),
    }


def _intervene(
    frozen_model: FrozenModel,
    transcoders: list[Dictionary],
    acts: list[Tensor],
    graph: AttributionGraph,
    pruned: list[PrunedGraph],
    settings: Graphs,
) -> dict[str, Tensor]:
    """Predicted and measured changes of all targets, (features · factors, targets), with their controls."""
    in_pruned = torch.stack([graph_.node_mask[graph.node_slices["features"]] for graph_ in pruned]).any(0)
    generator = torch.Generator().manual_seed(settings.seed)
    outside = (~in_pruned).nonzero().flatten()
    outside = outside[torch.randperm(len(outside), generator=generator)[: settings.random_features]]
    selected = torch.cat([in_pruned.nonzero().flatten(), outside]).sort().values
    features = selected.repeat(len(settings.steering_factors))
    factors = torch.tensor(settings.steering_factors).repeat_interleave(len(selected))
    steering = interventions.steer_features(graph, transcoders, features, factors)
    control = interventions.random_directions(steering, settings.seed)
    effects = {
        "features": features,
        "factors": factors,
        "predicted": interventions.predict_effects(graph, features, factors),
        "predicted_direct": interventions.predict_direct_effects(graph, features, factors),
    }
    for setting in interventions.SETTINGS:
        effects[setting] = interventions.measure_effects(
            frozen_model, transcoders, acts, graph.targets, steering, setting
        )
    for setting in ("frozen", "unfrozen"):
        effects[f"random_{setting}"] = interventions.measure_effects(
            frozen_model, transcoders, acts, graph.targets, control, setting
        )
    return effects


def _ablate_supernodes(
    frozen_model: FrozenModel,
    transcoders: list[Dictionary],
    acts: list[Tensor],
    graph: AttributionGraph,
    supernodes: list[Supernode],
) -> None:
    """Ablate the features of each supernode together, and store the change of the first target."""
    if not supernodes:
        return
    features = torch.tensor([feature for supernode in supernodes for feature in supernode.features])
    runs = torch.tensor([run for run, supernode in enumerate(supernodes) for _ in supernode.features])
    zeros = torch.zeros(len(features))
    steering = interventions.steer_features(graph, transcoders, features, zeros, runs)
    effects = {"predicted": interventions.predict_effects(graph, features, zeros, runs)}
    for setting in ("replacement", "frozen", "unfrozen"):
        effects[setting] = interventions.measure_effects(
            frozen_model, transcoders, acts, graph.targets[:1], steering, setting
        )
    for run, supernode in enumerate(supernodes):
        supernode.ablation_effects = {name: float(change[run, 0]) for name, change in effects.items()}


def _intervention_table(
    graph: AttributionGraph, effects: dict[str, Tensor], column: int, pruned: PrunedGraph
) -> pd.DataFrame:
    """Changes of one target, one row per feature and steering factor."""
    features = effects["features"]
    positions = graph.features[features].numpy()
    columns = {
        "layer": positions[:, 0],
        "position": positions[:, 1],
        "feature": positions[:, 2],
        "in_pruned_graph": pruned.node_mask[features].numpy(),
        "activation": graph.activations[features].numpy(),
        "steering_factor": effects["factors"].numpy(),
    }
    changes = {name: values[:, column].numpy() for name, values in effects.items() if values.ndim == 2}
    return pd.DataFrame(columns | changes)
