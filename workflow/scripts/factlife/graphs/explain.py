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
from factlife.graphs.export import Group, Shown, pins
from factlife.graphs.graph import (
    Graph,
    GraphError,
    Pruned,
    active_features,
    attribute,
    contrast,
    prune,
    scores,
    token_targets,
)
from factlife.graphs.replacement import Held
from factlife.recall.score import Answers
from factlife.saes.activations import special
from factlife.saes.dictionary import Coder
from factlife.saes.quality import known_probes
from factlife.world import World

# What a graph explains: the answer and its rivals, token by token; or the answer less the strongest wrong one.
EXPLAINED = ("answer", "contrast")


class Question(NamedTuple):
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
class Explained:
    """What was found.

    Attributes:
        shown: a graph for each page.
        scores: a row per fact and what is explained.
        interventions: a row per fact, what is explained, feature and multiple.
    """

    shown: list[Shown] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    interventions: list[pd.DataFrame] = field(default_factory=list)


def explain(
    model: Any, tokenizer: Any, world: World, coders: list[Coder], labels: pd.Series, settings: Graphs
) -> Explained:
    """Attribute the answers to facts and to prompts of one's own, and intervene on features.

    Args:
        model: in eval mode.
        tokenizer: its tokenizer.
        world: what is known of facts.
        coders: transcoders, one a layer.
        labels: of features, by layer and number.
        settings: how.

    Raises:
        GraphError: a named fact is not asked about, or an answer is no single token.
    """
    found = Explained()
    for question in questions(model, tokenizer, world, settings):
        ids = torch.tensor([question.ids], device=next(model.parameters()).device)
        held = Held(model, ids)
        whole, acts = _attributed(held, tokenizer, coders, question, settings)
        recalled = int(held.logits[-1].argmax()) == question.answer
        parts = {"answer": whole.about(slice(0, -1)), "contrast": whole.about(slice(-1, None))}
        pruned = {
            name: prune(graph, node_share=settings.node_share, edge_share=settings.edge_share)
            for name, graph in parts.items()
        }
        measured = _intervene(held, coders, acts, whole, list(pruned.values()), settings)
        for name, graph in parts.items():
            keys = {"fact_id": question.name, "relation": question.relation, "recalled": recalled, "explained": name}
            row = keys | _scored(graph, pruned[name])
            column = 0 if name == "answer" else len(whole.targets) - 1
            table = _table(whole, measured, column, pruned[name]).assign(**keys)
            found.scores.append(row)
            found.interventions.append(table)
            if question.page:
                pinned, groups = pins(graph, pruned[name], labels)
                _ablate(held, coders, acts, graph, groups)
                found.shown.append(
                    Shown(question.name, name, question.prompt, graph, pruned[name], row, table, labels, pinned, groups)
                )
        logging.info("%s: %d features, replacement score %.3f", question.name, len(whole.features), row["replacement_score"])  # fmt: skip
    return found


def questions(model: Any, tokenizer: Any, world: World, settings: Graphs) -> list[Question]:
    """Prompts of one's own, named facts, then facts of the panel: known ones first, relations in turn."""
    answers = Answers(tokenizer)
    named = settings.pages if isinstance(settings.pages, list) else []
    probes = known_probes(world.facts, world.probes)
    if unknown := sorted(set(named) - set(probes["fact_id"])):
        raise GraphError(f"graphs.pages names {', '.join(unknown)}, which no forward probe asks for")
    own = [
        _question(answers, name, "", one.prompt, one.answer, [one.wrong] if one.wrong else [], page=True)
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
    wanted, first = max(settings.scored - len(own), len(named)), [one for one in found if one.page]
    if wanted > len(first):
        known = dict(zip(found, _known(model, found), strict=True))
        first += _in_turn([one for one in found if not one.page and known[one]])
        first += _in_turn([one for one in found if not one.page and not known[one]])
    found = first[:wanted]
    shown = settings.pages if isinstance(settings.pages, int) else len(named)
    return own + [one._replace(page=number < shown) for number, one in enumerate(found)]


def _in_turn(asked: list[Question]) -> list[Question]:
    """Relations in turn, each with a fact of a subject whose turn it was not yet, as long as there is one."""
    left: dict[str, list[Question]] = defaultdict(list)
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
) -> Question:
    target = answers.after(prompt, answer)
    if len(target) != 1:
        raise GraphError(
            f"{name}: a graph explains one token, but the tokenizer writes {answer!r} after {prompt!r} with {len(target)}"
        )
    others = tuple(ids[0] for value in wrong if (ids := answers.ids(value)) and ids[0] != target[0])
    return Question(name, relation, prompt, tuple(answers.tokenizer(prompt)["input_ids"]), target[0], others, page)


@torch.no_grad()
def _known(model: Any, asked: list[Question]) -> list[bool]:
    device = next(model.parameters()).device
    said = [
        model(input_ids=torch.tensor([one.ids], device=device), use_cache=False, logits_to_keep=1).logits[0, -1]
        for one in asked
    ]
    return [int(logits.argmax()) == one.answer for logits, one in zip(said, asked, strict=True)]


def _attributed(
    held: Held, tokenizer: Any, coders: list[Coder], question: Question, settings: Graphs
) -> tuple[Graph, list[Tensor]]:
    """One graph of all targets, the contrast last, and the activations of features."""
    logits = held.logits[-1]
    rivals = torch.tensor(question.wrong or [id_ for id_ in range(len(logits)) if id_ != question.answer])
    wrong = int(rivals[logits[rivals].argmax()])

    def word(id_: int) -> str:
        return tokenizer.decode([id_])

    targets = token_targets(logits, word, share=settings.mass, most=settings.logits, first=question.answer)
    targets.append(contrast(logits, word, question.answer, wrong))
    skip = special(tokenizer, held.ids[0])
    tokens = [word(id_) for id_ in question.ids]
    graph = attribute(held, coders, targets, tokens, skip, max_features=settings.max_features)
    return graph, active_features(held, coders, skip)


def _scored(graph: Graph, pruned: Pruned) -> dict[str, Any]:
    """Scores of a graph, and how exact it is."""
    said, part = graph.effects.sum(1) + graph.bias, graph.parts
    rows = torch.cat([torch.arange(part[kind].start, part[kind].stop) for kind in ("features", "logits")])
    error = (said - graph.totals)[rows].abs() / graph.totals[rows].abs().clamp(min=1e-3)
    replacement, completeness = scores(graph)
    return {
        "replacement_score": replacement,
        "completeness_score": completeness,
        "active_features": len(graph.features) + graph.omitted,
        "omitted_features": graph.omitted,
        "nodes": len(graph.effects),
        "shown_nodes": int(pruned.nodes.sum()),
        "shown_edges": int(pruned.edges.sum()),
        "logit_difference": graph.logit_difference,
        "row_error": float(error.max()),
    }


def _intervene(
    held: Held, coders: list[Coder], acts: list[Tensor], graph: Graph, pruned: list[Pruned], settings: Graphs
) -> dict[str, Any]:
    """Predicted and measured changes of all targets, (features · multiples, targets), with their controls."""
    shown = torch.stack([one.nodes[graph.parts["features"]] for one in pruned]).any(0)
    generator = torch.Generator().manual_seed(settings.seed)
    others = (~shown).nonzero().flatten()
    others = others[torch.randperm(len(others), generator=generator)[: settings.others]]
    chosen = torch.cat([shown.nonzero().flatten(), others]).sort().values
    features = chosen.repeat(len(settings.multiples))
    multiples = torch.tensor(settings.multiples).repeat_interleave(len(chosen))
    changes = interventions.steer(graph, coders, features, multiples)
    control = interventions.random_directions(changes, settings.seed)
    found = {
        "features": features,
        "multiples": multiples,
        "predicted": interventions.predict(graph, features, multiples),
        "predicted_direct": interventions.predict_direct(graph, features, multiples),
    }
    for setting in interventions.SETTINGS:
        found[setting] = interventions.measure(held, coders, acts, graph.targets, changes, setting)
    for setting in ("frozen", "free"):
        found[f"random_{setting}"] = interventions.measure(held, coders, acts, graph.targets, control, setting)
    return found


def _ablate(held: Held, coders: list[Coder], acts: list[Tensor], graph: Graph, groups: list[Group]) -> None:
    """Take out the features of each group together, and keep by how much the first target changes."""
    if not groups:
        return
    features = torch.tensor([feature for group in groups for feature in group.features])
    runs = torch.tensor([run for run, group in enumerate(groups) for _ in group.features])
    nothing = torch.zeros(len(features))
    changes = interventions.steer(graph, coders, features, nothing, runs)
    found = {"predicted": interventions.predict(graph, features, nothing, runs)}
    for setting in ("replacement", "frozen", "free"):
        found[setting] = interventions.measure(held, coders, acts, graph.targets[:1], changes, setting)
    for run, group in enumerate(groups):
        group.ablated = {name: float(change[run, 0]) for name, change in found.items()}


def _table(graph: Graph, measured: dict[str, Any], column: int, pruned: Pruned) -> pd.DataFrame:
    """One target's changes, a row per feature and multiple."""
    features = measured["features"]
    places = graph.features[features].numpy()
    columns = {
        "layer": places[:, 0],
        "position": places[:, 1],
        "feature": places[:, 2],
        "shown": pruned.nodes[features].numpy(),
        "activation": graph.activations[features].numpy(),
        "multiple": measured["multiples"].numpy(),
    }
    changes = {name: values[:, column].numpy() for name, values in measured.items() if values.ndim == 2}
    return pd.DataFrame(columns | changes)
