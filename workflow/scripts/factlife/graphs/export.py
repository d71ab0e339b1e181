"""Files of attribution graphs: the JSON of Neuronpedia and circuit-tracer, and HTML pages that open offline."""

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
FEATURE_TYPES = {
    "features": "cross layer transcoder",
    "errors": "mlp reconstruction error",
    "tokens": "embedding",
    "logits": "logit",
}
_MAX_PINNED, _MIN_COSINE = 14, 0.5


@dataclass
class Supernode:
    """Features with similar connections.

    Attributes:
        label: text for people.
        features: indices of features in the graph.
        ablation_effects: change of the target when all are ablated together: ``predicted``, and measured by setting.
    """

    label: str
    features: list[int]
    ablation_effects: dict[str, float] = field(default_factory=dict)


@dataclass
class GraphPage:
    """A graph with a page.

    Attributes:
        name: name of the fact or prompt.
        attribution_target: ``answer`` or ``contrast``.
        prompt: text.
        graph: the unpruned graph.
        pruned: the nodes and edges to show.
        scores: its row of scores.
        interventions: its rows of interventions.
        labels: labels of features, by layer and index.
        pinned: nodes that are pinned at first.
        supernodes: groups of pinned features.
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
    supernodes: list[Supernode]

    @property
    def slug(self) -> str:
        """Name of its files: the fact's id, followed by the attribution target unless that is the answer."""
        return self.name if self.attribution_target == "answer" else f"{self.name}.{self.attribution_target}"


def cantor(layer: int, feature: int) -> int:
    """Cantor pairing of layer and feature, the feature number of Neuronpedia's schema version 1."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def node_ids(graph: AttributionGraph) -> list[str]:
    """A unique id for each node.

    circuit-tracer names errors ``0_{layer}_{position}``, which is also the id of a feature of layer 0; here they are
    ``ERR_{layer}_{position}``.
    """
    n, last = len(graph.tokens), graph.n_layers + 1
    ids = [f"{layer}_{feature}_{position}" for layer, position, feature in graph.features.tolist()]
    ids += [f"ERR_{layer}_{position}" for layer in range(graph.n_layers) for position in range(n)]
    ids += [f"E_{token}_{position}" for position, token in enumerate(graph.ids)]
    targets = ["contrast" if target.token is None else target.token for target in graph.targets]
    return ids + [f"{last}_{target}_{n - 1}" for target in targets]


def graph_to_json(page: GraphPage, scan: str, settings: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    """The pruned graph in Neuronpedia's graph schema, version 1, which circuit-tracer also reads.

    Args:
        page: the graph.
        scan: name of the transcoders.
        settings: settings of the attribution.
        provenance: inputs and versions of the job.
    """
    graph, pruned = page.graph, page.pruned
    ids, shown = node_ids(graph), pruned.node_mask.nonzero().flatten().tolist()
    nodes = {i: node | {"node_id": ids[i]} for i, node in enumerate(_nodes(page)) if pruned.node_mask[i]}
    target = (
        "the answer's token and its rivals"
        if page.attribution_target == "answer"
        else "the answer's logit minus that of a wrong answer"
    )
    return {
        "metadata": {
            "slug": page.slug,
            "scan": scan,
            "transcoder_list": [],
            "prompt_tokens": [_visible(token) for token in graph.tokens],
            "prompt": page.prompt,
            "node_threshold": settings["node_threshold"],
            "schema_version": 1,
            "info": {
                "description": f"Attribution of {target}. Transcoders plus error replace the MLPs.",
                "creator_name": "Factlife",
                "generator": {"name": "factlife", "version": "1"},
            },
            "generation_settings": {
                "max_n_logits": settings["max_n_logits"],
                "desired_logit_prob": settings["desired_logit_prob"],
                "max_feature_nodes": settings["max_feature_nodes"],
                "attribution_target": page.attribution_target,
                "dtype": "float32",
                "inputs": provenance.get("inputs", {}),
                "versions": provenance.get("versions", {}),
            },
            "pruning_settings": {
                "node_threshold": settings["node_threshold"],
                "edge_threshold": settings["edge_threshold"],
            },
            "replacement_score": page.scores["replacement_score"],
            "completeness_score": page.scores["completeness_score"],
        },
        "qParams": {"linkType": "both", "clickedId": "", "sg_pos": "", **_pinned_ids(page, ids)},
        "nodes": [nodes[i] for i in shown],
        "links": [
            {"source": ids[source], "target": ids[target], "weight": _rounded(graph.effects[target, source])}
            for target, source in _links(graph, pruned)
        ],
    }


def _nodes(page: GraphPage) -> list[dict[str, Any]]:
    """Descriptions of all nodes, in the order of the graph."""
    graph, n, logit_layer = page.graph, len(page.graph.tokens), str(page.graph.n_layers + 1)
    rows = []
    for layer, position, feature in graph.features.tolist():
        label = str(page.labels.get((layer, feature), ""))
        rows.append((str(layer), position, cantor(layer, feature), f"{layer}_{feature}-0", label))
    for layer in range(graph.n_layers):
        for position, token in enumerate(graph.tokens):
            rows.append((str(layer), position, -1, f"ERR_{layer}_{position}-0", f'Error at "{_visible(token)}"'))
    for position, (token, id_) in enumerate(zip(graph.tokens, graph.ids, strict=True)):
        rows.append(("E", position, position, f"E_{id_}-{position}", f'Token "{_visible(token)}"'))
    for target in graph.targets:
        label = f'Output "{_visible(target.label)}" (p={target.probability:.3f})'
        id_ = int(target.weights.argmax()) if target.token is None else target.token
        rows.append((logit_layer, n - 1, id_, f"L_{id_}-{n - 1}", label))
    kinds = [FEATURE_TYPES[kind] for kind, nodes in graph.node_slices.items() for _ in range(nodes.stop - nodes.start)]
    activations = [*graph.activations.tolist(), *[None] * (len(rows) - len(graph.features))]
    probabilities = [*[0.0] * (len(rows) - len(graph.targets)), *(target.probability for target in graph.targets)]
    first_logit = graph.node_slices["logits"].start
    return [
        {
            "node_id": "",
            "feature": feature,
            "layer": layer,
            "ctx_idx": position,
            "feature_type": kinds[i],
            "jsNodeId": name,
            "clerp": label,
            "token_prob": _rounded(probabilities[i]),
            "is_target_logit": i == first_logit,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "influence": None if i >= first_logit else _rounded(page.pruned.cumulative_scores[i]),
            "activation": None if activations[i] is None else _rounded(activations[i]),
        }
        for i, (layer, position, feature, name, label) in enumerate(rows)
    ]


def _links(graph: AttributionGraph, pruned: PrunedGraph) -> list[tuple[int, int]]:
    """The edges after pruning as (target, source), the most influential first."""
    weights = graph.logit_weights
    scores = normalize_matrix(graph.effects) * (compute_node_influence(graph.effects, weights) + weights)[:, None]
    targets, sources = pruned.edge_mask.nonzero(as_tuple=True)
    order = scores[targets, sources].argsort(descending=True, stable=True)
    return list(zip(targets[order].tolist(), sources[order].tolist(), strict=True))


def _pinned_ids(page: GraphPage, ids: list[str]) -> dict[str, Any]:
    supernodes = [[supernode.label, *(ids[i] for i in supernode.features)] for supernode in page.supernodes]
    return {"pinnedIds": [ids[i] for i in page.pinned], "supernodes": supernodes}


def choose_pinned_nodes(
    graph: AttributionGraph, pruned: PrunedGraph, labels: pd.Series
) -> tuple[list[int], list[Supernode]]:
    """Nodes to pin at first: the most influential features, the tokens with the largest effect on them, and the target.

    Pinned features form a supernode if their incoming and outgoing edges have a cosine above one half on average
    (average linkage). Its label is the most common label of its features.

    Args:
        graph: the unpruned graph.
        pruned: the nodes and edges after pruning.
        labels: labels of features, by layer and index.
    """
    f, nodes = len(graph.features), graph.node_slices
    influence = compute_node_influence(graph.effects, graph.logit_weights)[:f] * pruned.node_mask[:f]
    n_features = min(_MAX_PINNED, int(pruned.node_mask[:f].sum()))
    features = influence.argsort(descending=True, stable=True)[:n_features]
    shares = normalize_matrix(graph.effects)[features][:, nodes["tokens"]]
    token_effects = (shares * pruned.edge_mask[features][:, nodes["tokens"]]).sum(0)
    positions = [int(i) for i in token_effects.argsort(descending=True)[:5] if token_effects[i] > 0]
    tokens = sorted(nodes["tokens"].start + position for position in positions)
    pinned = [*features.tolist(), *tokens, nodes["logits"].start]
    if len(features) < 2:
        return pinned, []
    effects = graph.effects * pruned.edge_mask
    profiles = np.concatenate([effects[features].numpy(), effects[:, features].T.numpy()], 1)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True) + 1e-12
    distances = np.maximum(0, 1 - profiles @ profiles.T)[np.triu_indices(len(features), 1)]
    clusters = fcluster(linkage(distances, "average"), 1 - _MIN_COSINE, "distance")
    supernodes = []
    for cluster in dict.fromkeys(clusters.tolist()):
        members = features[clusters == cluster].tolist()
        names = [str(labels.get((layer, index), "features")) for layer, _, index in graph.features[members].tolist()]
        if len(members) > 1:
            supernodes.append(Supernode(Counter(names).most_common(1)[0][0], members))
    return pinned, supernodes


def render_page(page: GraphPage, graph: dict[str, Any], features: pd.DataFrame, info: dict[str, Any]) -> str:
    """One self-contained HTML file: the graph's JSON, descriptions of its features, and summaries of pruned nodes.

    Args:
        page: the graph.
        graph: its JSON.
        features: descriptions of features, by layer and index.
        info: model and fact, for the page's title.
    """
    active = page.graph.features[page.pruned.node_mask[: len(page.graph.features)]]
    keys = sorted({(int(row[0]), int(row[2])) for row in active})
    data = {
        "graph": graph,
        "nodes": _node_details(page),
        "features": {f"{layer}_{index}": _feature_details(features.loc[(layer, index)]) for layer, index in keys},
        "influence": _influence_by_source(page),
        "scores": page.scores,
        "supernodes": [
            {name: _rounded(change) for name, change in supernode.ablation_effects.items()}
            for supernode in page.supernodes
        ],
    }
    text = json.dumps(data | info, ensure_ascii=False, allow_nan=False, default=float).replace("</", "<\\/")
    return _TEMPLATE.read_text().replace("/*DATA*/", text)


def _feature_details(row: pd.Series) -> dict[str, Any]:
    feature = feature_to_neuronpedia(row, int(row.name[1]), "")
    return {
        "label": feature["label"],
        "detection_score": round(feature["label_detection_score"], 3),
        "activation_frequency": feature["activation_frequency"],
        "top": feature["top_logits"],
        "bottom": feature["bottom_logits"],
        "histogram": feature["histogram"],
        "max": _rounded(feature["act_max"]),
        "examples": [
            {"tokens": example["tokens"], "acts": example["tokens_acts_list"], "position": example["train_token_ind"]}
            for example in feature["examples_quantiles"][0]["examples"]
        ],
    }


def _node_details(page: GraphPage) -> dict[str, Any]:
    """Entries beyond the schema, by node: constant input, and fractions from errors and pruned nodes; ablations."""
    graph, pruned = page.graph, page.pruned
    nodes, shares = graph.node_slices, normalize_matrix(graph.effects)
    from_errors = shares[:, nodes["errors"]].sum(1)
    sources = [*range(nodes["features"].stop), *range(nodes["tokens"].start, nodes["tokens"].stop)]
    from_shown = (shares * pruned.edge_mask)[:, sources].sum(1)
    table = page.interventions[page.interventions["steering_factor"] == 0]
    columns = ["predicted", "replacement", "frozen", "unfrozen", "random_unfrozen"]
    ablations = {
        (row.layer, row.position, row.feature): {name: _rounded(getattr(row, name)) for name in columns}
        for row in table.itertuples()
    }
    details: dict[str, dict[str, Any]] = {}
    ids = node_ids(graph)
    for i in pruned.node_mask.nonzero().flatten().tolist():
        if nodes["errors"].start <= i < nodes["tokens"].stop:
            continue
        details[ids[i]] = {
            "constant": _rounded(graph.bias[i]),
            "total": _rounded(graph.totals[i]),
            "error": _rounded(from_errors[i]),
            "pruned": _rounded((1 - from_errors[i] - from_shown[i]).clamp(min=0)),
        }
        if i < len(graph.features):
            layer, position, feature = graph.features[i].tolist()
            details[ids[i]]["ablation"] = ablations.get((layer, position, feature))
    return details


def _influence_by_source(page: GraphPage) -> dict[str, Any]:
    """Influence of errors by layer, and of tokens by position."""
    graph = page.graph
    influence, nodes = compute_node_influence(graph.effects, graph.logit_weights), graph.node_slices
    return {
        "errors": [_rounded(value) for value in influence[nodes["errors"]].view(graph.n_layers, -1).sum(1)],
        "tokens": [_rounded(value) for value in influence[nodes["tokens"]]],
    }


def write_graphs(
    folder: Path, pages: list[GraphPage], features: pd.DataFrame, *, scan: str, settings: dict[str, Any],
    provenance: dict[str, Any], model_info: dict[str, Any],
) -> None:  # fmt: skip
    """Write ``{slug}.json`` and ``{slug}.html`` of each graph, their index, and their features.

    ``graph-metadata.json`` and ``features/{scan}/{feature}.json`` are the paths that circuit-tracer's server reads.

    Args:
        folder: an existing folder.
        pages: the graphs.
        features: descriptions of features, with ``layer`` and ``feature``.
        scan: name of the transcoders.
        settings: settings of the attribution.
        provenance: inputs and versions of the job.
        model_info: model and seed, for the pages' titles.
    """
    features = features.set_index(["layer", "feature"])
    index, feature_folder = [], folder / "features" / scan
    feature_folder.mkdir(parents=True)
    slugs = [page.slug for page in pages]
    for page in pages:
        graph = graph_to_json(page, scan, settings, provenance)
        index.append(graph["metadata"])
        (folder / f"{page.slug}.json").write_text(json.dumps(graph, ensure_ascii=False, allow_nan=False))
        info = model_info | {"pages": slugs, "attribution_target": page.attribution_target, "name": page.name}
        (folder / f"{page.slug}.html").write_text(render_page(page, graph, features, info))
        active = page.graph.features[page.pruned.node_mask[: len(page.graph.features)]]
        for layer, _, feature in active.tolist():
            paired = cantor(layer, feature)
            text = json.dumps(feature_to_neuronpedia(features.loc[(layer, feature)], paired, scan), ensure_ascii=False)
            (feature_folder / f"{paired}.json").write_text(text)
    (folder / "graph-metadata.json").write_text(json.dumps({"graphs": index}, ensure_ascii=False))


def _visible(token: str) -> str:
    return token.replace("\n", "⏎").replace("\t", "→").replace("\r", "↵")


def _rounded(value: float | Tensor) -> float:
    """Six significant digits, about the precision of float32."""
    return float(f"{float(value):.6g}")
