"""Graphs as files: Neuronpedia's and circuit-tracer's JSON, and pages that open without a network."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from factlife.graphs.graph import AttributionGraph, PrunedGraph, compute_node_influence, normalize_matrix
from factlife.saes.features import feature_to_neuronpedia

_TEMPLATE = Path(__file__).with_name("page.html")
# Error nodes are circuit-tracer's `0_{layer}_{position}` elsewhere, which is also the id of a feature of layer 0.
FEATURE_TYPES = {
    "features": "cross layer transcoder",
    "errors": "mlp reconstruction error",
    "tokens": "embedding",
    "logits": "logit",
}
_PINNED, _ALIKE = 14, 0.5


@dataclass
class Supernode:
    """Features of like connections.

    Attributes:
        label: for people.
        features: numbers of the graph's features.
        ablated: change of the target when all are taken out together: ``predicted``, and measured by setting.
    """

    label: str
    features: list[int]
    ablated: dict[str, float] = field(default_factory=dict)


@dataclass
class GraphPage:
    """A graph to be shown.

    Attributes:
        name: of the fact or prompt.
        attribution_target: ``answer`` or ``contrast``.
        prompt: text.
        graph: whole.
        pruned: what is shown of it.
        scores: its row of scores.
        interventions: its rows of interventions.
        labels: of features, by layer and number.
        pinned: nodes to start from.
        groups: of them.
    """

    name: str
    attribution_target: str
    prompt: str
    graph: AttributionGraph
    pruned: PrunedGraph
    scores: dict[str, Any]
    interventions: pd.DataFrame
    labels: pd.Series
    pinned: list[int]
    groups: list[Supernode]

    @property
    def slug(self) -> str:
        """Name of its files: the fact's, where it explains the answer."""
        return self.name if self.attribution_target == "answer" else f"{self.name}.{self.attribution_target}"


def cantor(layer: int, feature: int) -> int:
    """One number for two, as Neuronpedia's schema version 1 counts features."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def node_ids(graph: AttributionGraph) -> list[str]:
    """An id for each node, all different."""
    n, last = len(graph.tokens), graph.n_layers + 1
    ids = [f"{layer}_{feature}_{position}" for layer, position, feature in graph.features.tolist()]
    ids += [f"ERR_{layer}_{position}" for layer in range(graph.n_layers) for position in range(n)]
    ids += [f"E_{token}_{position}" for position, token in enumerate(graph.ids)]
    return ids + [f"{last}_{'contrast' if one.token is None else one.token}_{n - 1}" for one in graph.targets]


def graph_to_json(shown: GraphPage, scan: str, settings: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    """The pruned graph in Neuronpedia's graph schema, version 1, which is circuit-tracer's with ids that do not collide.

    Args:
        shown: the graph.
        scan: names the transcoders.
        settings: of the attribution.
        provenance: what made it.
    """
    graph, pruned = shown.graph, shown.pruned
    ids, kept = node_ids(graph), pruned.nodes.nonzero().flatten().tolist()
    nodes = {place: node | {"node_id": ids[place]} for place, node in enumerate(_nodes(shown)) if pruned.nodes[place]}
    links = _links(graph, pruned)
    what = (
        "the answer's token and its rivals"
        if shown.attribution_target == "answer"
        else "the answer's logit less a wrong one's"
    )
    return {
        "metadata": {
            "slug": shown.slug,
            "scan": scan,
            "transcoder_list": [],
            "prompt_tokens": [_visible(token) for token in graph.tokens],
            "prompt": shown.prompt,
            "node_threshold": settings["node_threshold"],
            "schema_version": 1,
            "info": {
                "description": f"What {what} came from. MLPs are replaced by transcoders plus error.",
                "creator_name": "Factlife",
                "generator": {"name": "factlife", "version": "1"},
            },
            "generation_settings": {
                "max_n_logits": settings["max_n_logits"],
                "desired_logit_prob": settings["desired_logit_prob"],
                "max_feature_nodes": settings["max_feature_nodes"],
                "attribution_target": shown.attribution_target,
                "dtype": "float32",
                "inputs": provenance.get("inputs", {}),
                "versions": provenance.get("versions", {}),
            },
            "pruning_settings": {
                "node_threshold": settings["node_threshold"],
                "edge_threshold": settings["edge_threshold"],
            },
            "replacement_score": shown.scores["replacement_score"],
            "completeness_score": shown.scores["completeness_score"],
        },
        "qParams": {"linkType": "both", "clickedId": "", "sg_pos": "", **_pinned(shown, ids)},
        "nodes": [nodes[place] for place in kept],
        "links": [
            {"source": ids[source], "target": ids[target], "weight": _short(graph.effects[target, source])}
            for target, source in links
        ],
    }


def _nodes(shown: GraphPage) -> list[dict[str, Any]]:
    """Every node's description, in the graph's order."""
    graph, n, top = shown.graph, len(shown.graph.tokens), str(shown.graph.n_layers + 1)
    rows = []
    for layer, position, feature in graph.features.tolist():
        label = str(shown.labels.get((layer, feature), ""))
        rows.append((str(layer), position, cantor(layer, feature), f"{layer}_{feature}-0", label))
    for layer in range(graph.n_layers):
        for position, token in enumerate(graph.tokens):
            rows.append((str(layer), position, -1, f"ERR_{layer}_{position}-0", f'Error at "{_visible(token)}"'))
    for position, (token, id_) in enumerate(zip(graph.tokens, graph.ids, strict=True)):
        rows.append(("E", position, position, f"E_{id_}-{position}", f'Token "{_visible(token)}"'))
    for target in graph.targets:
        label = f'Output "{_visible(target.label)}" (p={target.probability:.3f})'
        token = int(target.weights.argmax()) if target.token is None else target.token
        rows.append((top, n - 1, token, f"L_{token}-{n - 1}", label))
    kinds = [FEATURE_TYPES[kind] for kind, part in graph.parts.items() for _ in range(part.stop - part.start)]
    active = [*graph.activations.tolist(), *[None] * (len(rows) - len(graph.features))]
    chances = [*[0.0] * (len(rows) - len(graph.targets)), *(target.probability for target in graph.targets)]
    first = graph.parts["logits"].start
    return [
        {
            "node_id": "",
            "feature": feature,
            "layer": layer,
            "ctx_idx": position,
            "feature_type": kinds[place],
            "jsNodeId": name,
            "clerp": label,
            "token_prob": _short(chances[place]),
            "is_target_logit": place == first,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "influence": None if place >= first else _short(shown.pruned.rank[place]),
            "activation": None if active[place] is None else _short(active[place]),
        }
        for place, (layer, position, feature, name, label) in enumerate(rows)
    ]


def _links(graph: AttributionGraph, pruned: PrunedGraph) -> list[tuple[int, int]]:
    """The shown edges as (target, source), those through which most influence goes first."""
    weights = graph.weights
    score = normalize_matrix(graph.effects) * (compute_node_influence(graph.effects, weights) + weights)[:, None]
    targets, sources = pruned.edges.nonzero(as_tuple=True)
    order = score[targets, sources].argsort(descending=True, stable=True)
    return list(zip(targets[order].tolist(), sources[order].tolist(), strict=True))


def _pinned(shown: GraphPage, ids: list[str]) -> dict[str, Any]:
    groups = [[group.label, *(ids[i] for i in group.features)] for group in shown.groups]
    return {"pinnedIds": [ids[place] for place in shown.pinned], "supernodes": groups}


def choose_pinned_nodes(
    graph: AttributionGraph, pruned: PrunedGraph, labels: pd.Series
) -> tuple[list[int], list[Supernode]]:
    """The nodes to start from: the most influential features, the tokens and the target that they join; and groups.

    Alike are features whose edges, in and out, have a cosine above one half on average (average linkage); a group is
    named by the commonest label among its features.

    Args:
        graph: whole.
        pruned: what is shown of it.
        labels: of features, by layer and number.
    """
    f, part = len(graph.features), graph.parts
    through = compute_node_influence(graph.effects, graph.weights)[:f] * pruned.nodes[:f]
    best = through.argsort(descending=True, stable=True)[: min(_PINNED, int(pruned.nodes[:f].sum()))]
    joined = (normalize_matrix(graph.effects)[best][:, part["tokens"]] * pruned.edges[best][:, part["tokens"]]).sum(0)
    tokens = [part["tokens"].start + int(place) for place in joined.argsort(descending=True)[:5] if joined[place] > 0]
    pinned = [*best.tolist(), *sorted(tokens), part["logits"].start]
    if len(best) < 2:
        return pinned, []
    kept = graph.effects * pruned.edges
    profiles = np.concatenate([kept[best].numpy(), kept[:, best].T.numpy()], 1)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True) + 1e-12
    distance = np.maximum(0, 1 - profiles @ profiles.T)[np.triu_indices(len(best), 1)]
    member = fcluster(linkage(distance, "average"), 1 - _ALIKE, "distance")
    groups = []
    for number in dict.fromkeys(member.tolist()):
        features = best[member == number].tolist()
        names = [str(labels.get((layer, n), "features")) for layer, _, n in graph.features[features].tolist()]
        if len(features) > 1:
            groups.append(Supernode(Counter(names).most_common(1)[0][0], features))
    return pinned, groups


def render_page(shown: GraphPage, graph: dict[str, Any], features: pd.DataFrame, facts: dict[str, Any]) -> str:
    """One HTML file with all that it needs: the graph's JSON, its features, and what is not shown.

    Args:
        shown: the graph.
        graph: its JSON.
        features: descriptions of features, by layer and number.
        facts: what the page says of the model and the fact.
    """
    places = {
        (int(one[0]), int(one[2])) for one in shown.graph.features[shown.pruned.nodes[: len(shown.graph.features)]]
    }
    told = {f"{layer}_{number}": _feature(features.loc[(layer, number)]) for layer, number in sorted(places)}
    data = {"graph": graph, "nodes": _more(shown), "features": told, "errors": _errors(shown), "scores": shown.scores}
    data["groups"] = [{name: _short(change) for name, change in group.ablated.items()} for group in shown.groups]
    text = json.dumps(data | facts, ensure_ascii=False, allow_nan=False, default=float).replace("</", "<\\/")
    return _TEMPLATE.read_text().replace("/*DATA*/", text)


def _feature(row: pd.Series) -> dict[str, Any]:
    told = feature_to_neuronpedia(row, int(row.name[1]), "")
    return {
        "label": told["label"],
        "detection": round(told["label_detection_score"], 3),
        "frequency": told["activation_frequency"],
        "top": told["top_logits"],
        "bottom": told["bottom_logits"],
        "histogram": told["histogram"],
        "max": _short(told["act_max"]),
        "examples": [
            {"tokens": one["tokens"], "acts": one["tokens_acts_list"], "at": one["train_token_ind"]}
            for one in told["examples_quantiles"][0]["examples"]
        ],
    }


def _more(shown: GraphPage) -> dict[str, Any]:
    """What the schema has no place for, by node: input that is constant, error or not shown; interventions."""
    graph, pruned = shown.graph, shown.pruned
    part, share = graph.parts, normalize_matrix(graph.effects)
    error = share[:, part["errors"]].sum(1)
    seen = (share * pruned.edges)[
        :, [*range(part["features"].stop), *range(part["tokens"].start, part["tokens"].stop)]
    ].sum(1)
    table = shown.interventions[shown.interventions["steering_factor"] == 0]
    columns = ["predicted", "replacement", "frozen", "unfrozen", "random_unfrozen"]
    ablated = {
        (row.layer, row.position, row.feature): {name: _short(getattr(row, name)) for name in columns}
        for row in table.itertuples()
    }
    found, ids = {}, node_ids(graph)
    for place in pruned.nodes.nonzero().flatten().tolist():
        if part["errors"].start <= place < part["tokens"].stop:
            continue
        found[ids[place]] = {
            "constant": _short(graph.bias[place]),
            "total": _short(graph.totals[place]),
            "error": _short(error[place]),
            "hidden": _short((1 - error[place] - seen[place]).clamp(min=0)),
        }
        if place < len(graph.features):
            layer, position, feature = graph.features[place].tolist()
            found[ids[place]]["ablated"] = ablated.get((layer, position, feature))
    return found


def _errors(shown: GraphPage) -> dict[str, Any]:
    """Influence of errors by layer, and of tokens by position."""
    graph = shown.graph
    through, part = compute_node_influence(graph.effects, graph.weights), graph.parts
    return {
        "errors": [_short(one) for one in through[part["errors"]].view(graph.n_layers, -1).sum(1)],
        "tokens": [_short(one) for one in through[part["tokens"]]],
    }


def write_graphs(
    folder: Path, shown: list[GraphPage], features: pd.DataFrame, *, scan: str, settings: dict[str, Any],
    provenance: dict[str, Any], model_info: dict[str, Any],
) -> None:  # fmt: skip
    """Write ``{slug}.json`` and ``{slug}.html`` of each graph, their index, and the features that they show.

    ``graph-metadata.json`` and ``features/{scan}/{number}.json`` are where circuit-tracer's server looks for them.

    Args:
        folder: is there.
        shown: the graphs.
        features: descriptions of features, with ``layer`` and ``feature``.
        scan: names the transcoders.
        settings: of the attribution.
        provenance: what made them.
        model_info: what pages say of the model.
    """
    features = features.set_index(["layer", "feature"])
    index, told = [], folder / "features" / scan
    told.mkdir(parents=True)
    names = [one.slug for one in shown]
    for one in shown:
        graph = graph_to_json(one, scan, settings, provenance)
        index.append(graph["metadata"])
        (folder / f"{one.slug}.json").write_text(json.dumps(graph, ensure_ascii=False, allow_nan=False))
        facts = model_info | {"pages": names, "attribution_target": one.attribution_target, "name": one.name}
        (folder / f"{one.slug}.html").write_text(render_page(one, graph, features, facts))
        kept = one.graph.features[one.pruned.nodes[: len(one.graph.features)]]
        for layer, _, number in kept.tolist():
            paired = cantor(layer, number)
            text = json.dumps(feature_to_neuronpedia(features.loc[(layer, number)], paired, scan), ensure_ascii=False)
            (told / f"{paired}.json").write_text(text)
    (folder / "graph-metadata.json").write_text(json.dumps({"graphs": index}, ensure_ascii=False))


def _visible(token: str) -> str:
    return token.replace("\n", "⏎").replace("\t", "→").replace("\r", "↵")


def _short(number: float | Tensor) -> float:
    """Six digits are what single precision has to say."""
    return float(f"{float(number):.6g}")
