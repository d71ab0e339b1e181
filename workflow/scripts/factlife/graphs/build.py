"""Attribution graphs of a model's facts: chosen, scored, intervened on, and shown."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
from factlife.recall.score import Answers
from factlife.saes.activations import special_tokens_mask
from factlife.saes.dictionary import Dictionary
from factlife.saes.quality import forward_probes
from factlife.world import World

# What a graph explains: the answer and its rivals, token by token; or the answer less the strongest wrong one.
ATTRIBUTION_TARGETS = ("answer", "contrast")


class GraphPrompt(NamedTuple):
    """What is asked of the model, and explained.

    Attributes:
        name: of the page: the fact's id, or the name of a prompt of one's own.
        relation: of the fact, or nothing.
        prompt: text.
        ids: its tokens.
        answer: token that should follow.
        wrong: tokens among which is the one that the answer is held against; none for all others.
        page: gets a page.
    """

    name: str
    relation: str
    prompt: str
    ids: tuple[int, ...]
    answer: int
    wrong: tuple[int, ...]
    page: bool

    @property
    def subject(self) -> str:
        """Whom it is about."""
        return self.name.split(".")[0]


@dataclass
class GraphResults:
    """What was found.

    Attributes:
        pages: a graph for each page.
        scores: a row per fact and what is explained.
        interventions: a row per fact, what is explained, feature and multiple.
    """

    pages: list[GraphPage] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    interventions: list[pd.DataFrame] = field(default_factory=list)


def build_attribution_graphs(
    model: Any, tokenizer: Any, world: World, transcoders: list[Dictionary], labels: pd.Series, settings: Graphs
) -> GraphResults:
    """Attribute the answers to facts and to prompts of one's own, and intervene on features.

    Args:
        model: in eval mode.
        tokenizer: its tokenizer.
        world: what is known of facts.
        transcoders: transcoders, one a layer.
        labels: of features, by layer and number.
        settings: how.

    Raises:
        GraphError: a named fact is not asked about, or an answer is no single token.
    """
    found = GraphResults()
    for question in select_prompts(model, tokenizer, world, settings):
        ids = torch.tensor([question.ids], device=next(model.parameters()).device)
        held = FrozenModel(model, ids)
        whole, acts = _attributed(held, tokenizer, transcoders, question, settings)
        recalled = int(held.logits[-1].argmax()) == question.answer
        parts = {"answer": whole.about(slice(0, -1)), "contrast": whole.about(slice(-1, None))}
        pruned = {
            name: prune_graph(graph, node_threshold=settings.node_threshold, edge_threshold=settings.edge_threshold)
            for name, graph in parts.items()
        }
        measured = _intervene(held, transcoders, acts, whole, list(pruned.values()), settings)
        for name, graph in parts.items():
            keys = {
                "fact_id": question.name,
                "relation": question.relation,
                "recalled": recalled,
                "attribution_target": name,
            }
            row = keys | _scored(graph, pruned[name])
            column = 0 if name == "answer" else len(whole.targets) - 1
            table = _table(whole, measured, column, pruned[name]).assign(**keys)
            found.scores.append(row)
            found.interventions.append(table)
            if question.page:
                pinned, groups = choose_pinned_nodes(graph, pruned[name], labels)
                _ablate(held, transcoders, acts, graph, groups)
                found.pages.append(
                    GraphPage(
                        question.name, name, question.prompt, graph, pruned[name], row, table, labels, pinned, groups
                    )
                )
        logging.info("%s: %d features, replacement score %.3f", question.name, len(whole.features), row["replacement_score"])  # fmt: skip
    return found


def select_prompts(model: Any, tokenizer: Any, world: World, settings: Graphs) -> list[GraphPrompt]:
    """Prompts of one's own, named facts, then facts of the panel: known ones first, relations in turn."""
    answers = Answers(tokenizer)
    named = settings.pages if isinstance(settings.pages, list) else []
    probes = forward_probes(world.facts, world.probes)
    if unknown := sorted(set(named) - set(probes["fact_id"])):
        raise GraphError(f"graphs.pages names {', '.join(unknown)}, which no forward probe asks for")
    own = [
        _question(answers, name, "", one.prompt, one.answer, [one.wrong_answer] if one.wrong_answer else [], page=True)
        for name, one in settings.prompts.items()
    ]
    asked = probes[probes["fact_id"].isin(named) | (probes["panel"] if probes["panel"].any() else True)]
    found = []
    for probe in asked.drop_duplicates("fact_id").itertuples():
        several = len(answers.after(probe.prompt, probe.target)) != 1
        if several and probe.fact_id not in named:
            continue
        others = [value for value in probe.candidates if value != probe.target]
        found.append(
            _question(
                answers, probe.fact_id, probe.relation, probe.prompt, probe.target, others, probe.fact_id in named
            )
        )
    wanted, first = max(settings.scored_facts - len(own), len(named)), [one for one in found if one.page]
    if wanted > len(first):
        known = dict(zip(found, _known(model, found), strict=True))
        first += _in_turn([one for one in found if not one.page and known[one]])
        first += _in_turn([one for one in found if not one.page and not known[one]])
    found = first[:wanted]
    shown = settings.pages if isinstance(settings.pages, int) else len(named)
    return own + [one._replace(page=number < shown) for number, one in enumerate(found)]


def _in_turn(asked: list[GraphPrompt]) -> list[GraphPrompt]:
    """Relations in turn, each with a fact of a subject whose turn it was not yet, as long as there is one."""
    left: dict[str, list[GraphPrompt]] = defaultdict(list)
    for one in asked:
        left[one.relation].append(one)
    found, had = [], set()
    while left:
        for relation in list(left):
            of_another = (one for one in left[relation] if one.subject not in had)
            chosen = next(of_another, left[relation][0])
            left[relation].remove(chosen)
            found.append(chosen)
            had.add(chosen.subject)
            if not left[relation]:
                del left[relation]
    return found


def _question(
    answers: Answers, name: str, relation: str, prompt: str, answer: str, wrong: list[str], page: bool
) -> GraphPrompt:
    target = answers.after(prompt, answer)
    if len(target) != 1:
        raise GraphError(
            f"{name}: a graph explains one token, but the tokenizer writes {answer!r} after {prompt!r} with {len(target)}"
        )
    others = tuple(ids[0] for value in wrong if (ids := answers.ids(value)) and ids[0] != target[0])
    return GraphPrompt(name, relation, prompt, tuple(answers.tokenizer(prompt)["input_ids"]), target[0], others, page)


@torch.no_grad()
def _known(model: Any, asked: list[GraphPrompt]) -> list[bool]:
    device = next(model.parameters()).device
    said = [
        model(input_ids=torch.tensor([one.ids], device=device), use_cache=False, logits_to_keep=1).logits[0, -1]
        for one in asked
    ]
    return [int(logits.argmax()) == one.answer for logits, one in zip(said, asked, strict=True)]


def _attributed(
    held: FrozenModel, tokenizer: Any, transcoders: list[Dictionary], question: GraphPrompt, settings: Graphs
) -> tuple[AttributionGraph, list[Tensor]]:
    """One graph of all targets, the contrast last, and the activations of features."""
    logits = held.logits[-1]
    rivals = torch.tensor(question.wrong or [id_ for id_ in range(len(logits)) if id_ != question.answer])
    wrong = int(rivals[logits[rivals].argmax()])

    def word(id_: int) -> str:
        return tokenizer.decode([id_])

    targets = salient_logit_targets(
        logits,
        word,
        desired_logit_prob=settings.desired_logit_prob,
        max_n_logits=settings.max_n_logits,
        first=question.answer,
    )
    targets.append(contrast_target(logits, word, question.answer, wrong))
    skip = special_tokens_mask(tokenizer, held.ids[0])
    tokens = [word(id_) for id_ in question.ids]
    graph = attribute(held, transcoders, targets, tokens, skip, max_feature_nodes=settings.max_feature_nodes)
    return graph, feature_activations(held, transcoders, skip)


def _scored(graph: AttributionGraph, pruned: PrunedGraph) -> dict[str, Any]:
    """Scores of a graph, and how exact it is."""
    said, part = graph.effects.sum(1) + graph.bias, graph.parts
    rows = torch.cat([torch.arange(part[kind].start, part[kind].stop) for kind in ("features", "logits")])
    error = (said - graph.totals)[rows].abs() / graph.totals[rows].abs().clamp(min=1e-3)
    replacement, completeness = compute_graph_scores(graph)
    return {
        "replacement_score": replacement,
        "completeness_score": completeness,
        "active_features": len(graph.features) + graph.omitted,
        "omitted_features": graph.omitted,
        "nodes": len(graph.effects),
        "nodes_after_pruning": int(pruned.nodes.sum()),
        "edges_after_pruning": int(pruned.edges.sum()),
        "max_logit_error": graph.max_logit_error,
        "max_row_error": float(error.max()),
    }


def _intervene(
    held: FrozenModel,
    transcoders: list[Dictionary],
    acts: list[Tensor],
    graph: AttributionGraph,
    pruned: list[PrunedGraph],
    settings: Graphs,
) -> dict[str, Any]:
    """Predicted and measured changes of all targets, (features · multiples, targets), with their controls."""
    shown = torch.stack([one.nodes[graph.parts["features"]] for one in pruned]).any(0)
    generator = torch.Generator().manual_seed(settings.seed)
    others = (~shown).nonzero().flatten()
    others = others[torch.randperm(len(others), generator=generator)[: settings.random_features]]
    chosen = torch.cat([shown.nonzero().flatten(), others]).sort().values
    features = chosen.repeat(len(settings.steering_factors))
    multiples = torch.tensor(settings.steering_factors).repeat_interleave(len(chosen))
    changes = interventions.steer_features(graph, transcoders, features, multiples)
    control = interventions.random_directions(changes, settings.seed)
    found = {
        "features": features,
        "multiples": multiples,
        "predicted": interventions.predict_effects(graph, features, multiples),
        "predicted_direct": interventions.predict_direct_effects(graph, features, multiples),
    }
    for setting in interventions.SETTINGS:
        found[setting] = interventions.measure_effects(held, transcoders, acts, graph.targets, changes, setting)
    for setting in ("frozen", "unfrozen"):
        found[f"random_{setting}"] = interventions.measure_effects(
            held, transcoders, acts, graph.targets, control, setting
        )
    return found


def _ablate(
    held: FrozenModel,
    transcoders: list[Dictionary],
    acts: list[Tensor],
    graph: AttributionGraph,
    groups: list[Supernode],
) -> None:
    """Take out the features of each group together, and keep by how much the first target changes."""
    if not groups:
        return
    features = torch.tensor([feature for group in groups for feature in group.features])
    runs = torch.tensor([run for run, group in enumerate(groups) for _ in group.features])
    nothing = torch.zeros(len(features))
    changes = interventions.steer_features(graph, transcoders, features, nothing, runs)
    found = {"predicted": interventions.predict_effects(graph, features, nothing, runs)}
    for setting in ("replacement", "frozen", "unfrozen"):
        found[setting] = interventions.measure_effects(held, transcoders, acts, graph.targets[:1], changes, setting)
    for run, group in enumerate(groups):
        group.ablated = {name: float(change[run, 0]) for name, change in found.items()}


def _table(graph: AttributionGraph, measured: dict[str, Any], column: int, pruned: PrunedGraph) -> pd.DataFrame:
    """One target's changes, a row per feature and multiple."""
    features = measured["features"]
    places = graph.features[features].numpy()
    columns = {
        "layer": places[:, 0],
        "position": places[:, 1],
        "feature": places[:, 2],
        "in_pruned_graph": pruned.nodes[features].numpy(),
        "activation": graph.activations[features].numpy(),
        "steering_factor": measured["multiples"].numpy(),
    }
    changes = {name: values[:, column].numpy() for name, values in measured.items() if values.ndim == 2}
    return pd.DataFrame(columns | changes)
