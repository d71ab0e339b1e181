"""The knowledge graph for other tools."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx

from factlife.world.tables import World


def knowledge_graph(world: World) -> nx.DiGraph:
    """Entities and values as nodes, facts as edges from one to the other."""
    made = nx.DiGraph()
    for entity in world.entities.itertuples():
        made.add_node(entity.entity_id, name=entity.name, kind=entity.kind, split=entity.split)
    for fact in world.facts.itertuples():
        if fact.value_id not in made:
            made.add_node(fact.value_id, name=fact.value, kind="value", split="")
        made.add_edge(
            fact.entity_id,
            fact.value_id,
            fact_id=fact.fact_id,
            relation=fact.relation,
            seen=fact.seen,
            exposures=fact.exposures,
        )
    return made


def write_graphml(world: World, path: str | Path) -> None:
    """Write GraphML, which Gephi, Cytoscape, yEd and networkx read."""
    nx.write_graphml(knowledge_graph(world), path)


def write_json(world: World, path: str | Path) -> None:
    """Write networkx's node-link JSON, which D3 reads."""
    Path(path).write_text(json.dumps(nx.node_link_data(knowledge_graph(world), edges="links"), indent=1))
