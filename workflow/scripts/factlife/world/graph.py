"""Export of the knowledge graph for other tools."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx

from factlife.world.tables import World


def knowledge_graph(world: World) -> nx.DiGraph:
    """The knowledge graph: entities and values are nodes, facts are edges."""
    graph = nx.DiGraph()
    for entity in world.entities.itertuples():
        graph.add_node(entity.entity_id, name=entity.name, kind=entity.kind, split=entity.split)
    for fact in world.facts.itertuples():
        if fact.value_id not in graph:
            graph.add_node(fact.value_id, name=fact.value, kind="value", split="")
        graph.add_edge(
            fact.entity_id,
            fact.value_id,
            fact_id=fact.fact_id,
            relation=fact.relation,
            seen=fact.seen,
            exposures=fact.exposures,
        )
    return graph


def write_graphml(world: World, path: str | Path) -> None:
    """Write GraphML for Gephi, Cytoscape, yEd or networkx."""
    nx.write_graphml(knowledge_graph(world), path)


def write_json(world: World, path: str | Path) -> None:
    """Write networkx's node-link JSON for D3."""
    Path(path).write_text(json.dumps(nx.node_link_data(knowledge_graph(world), edges="links"), indent=1))
