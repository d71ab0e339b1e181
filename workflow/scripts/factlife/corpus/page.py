"""An overview page of a world: part of its graph, documents with their facts, and probes."""

from __future__ import annotations

import html
import re
from typing import Any

import altair as alt
import networkx as nx
import pandas as pd
import vl_convert

from factlife import figures
from factlife.world.tables import World

_NO_AXIS = alt.Axis(labels=False, ticks=False, domain=False, grid=False, title=None)
_STYLE = """
body { font: 15px/1.5 Helvetica, Arial, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.lead { color: #555; margin-top: .3rem; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid #e5e5e5; } th { font-weight: 600; white-space: nowrap; }
mark { background: #fde8c8; padding: 0 .15em; border-radius: 3px; } b { color: #0072b2; font-weight: 600; }
td.kind { color: #777; white-space: nowrap; }
"""


def world_page(name: str, world: World, documents: pd.DataFrame | None, *, subjects: int = 3, examples: int = 3) -> str:
    """One self-contained HTML page about a world.

    Args:
        name: the world's name.
        world: the world.
        documents: a corpus rendered from the world, if any.
        subjects: number of entities in the graph.
        examples: number of documents of each kind.
    """
    subject_ids = _subjects(world, subjects)
    sections = [f"<h1>World “{html.escape(name)}”</h1><p class=lead>{_counts(world, documents)}</p>"]
    sections.append(
        "<h2>Part of the knowledge graph</h2>" + vl_convert.vegalite_to_svg(graph_chart(world, subject_ids).to_dict())
    )
    if documents is not None:
        sections.append("<h2>Documents</h2><p class=lead>Stated values are highlighted; subjects are blue.</p>")
        sections.append(_documents(world, documents, subject_ids, examples))
    sections.append("<h2>Probes</h2>" + _probes(world, subject_ids[0]))
    body = "\n".join(sections)
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>World {html.escape(name)}</title><style>{_STYLE}</style>{body}</html>\n"


def graph_chart(world: World, subjects: list[str]) -> alt.Chart:
    """Some entities with all their facts, as a graph."""
    facts = world.facts[world.facts["entity_id"].isin(subjects)]
    names = dict(zip(world.entities["entity_id"], world.entities["name"], strict=True))
    edges = nx.Graph([(fact.entity_id, f"value {fact.value_id}") for fact in facts.itertuples()])
    labels = {f"value {fact.value_id}": fact.value for fact in facts.itertuples()} | names
    positions = nx.kamada_kawai_layout(edges)
    nodes = pd.DataFrame(
        [
            {
                "x": positions[node][0],
                "y": positions[node][1],
                "label": labels[node],
                "kind": "value" if node not in names else "entity",
            }
            for node in edges
        ]
    )
    lines = pd.DataFrame(
        [
            {
                "x": positions[a][0],
                "y": positions[a][1],
                "x2": positions[b][0],
                "y2": positions[b][1],
                "relation": fact.relation.replace("_", " "),
            }
            for fact in facts.itertuples()
            for a, b in [(fact.entity_id, f"value {fact.value_id}")]
        ]
    )
    lines = lines.assign(mx=(lines["x"] + lines["x2"]) / 2, my=(lines["y"] + lines["y2"]) / 2)
    x, y = (
        alt.X("x:Q", axis=_NO_AXIS, scale=alt.Scale(padding=60)),
        alt.Y("y:Q", axis=_NO_AXIS, scale=alt.Scale(padding=25)),
    )
    colour = alt.Color(
        "kind:N",
        legend=None,
        scale=alt.Scale(domain=["entity", "value"], range=[figures.COLOURS[0], figures.COLOURS[1]]),
    )
    layers = [
        alt.Chart(lines).mark_rule(color="#bbb").encode(x=x, y=y, x2="x2", y2="y2"),
        alt.Chart(lines).mark_text(fontSize=9, color="#777", dy=-5).encode(x="mx:Q", y="my:Q", text="relation"),
        alt.Chart(nodes).mark_circle(size=90, opacity=1).encode(x=x, y=y, color=colour),
        alt.Chart(nodes).mark_text(dy=-11, fontSize=11, fontWeight="bold").encode(x=x, y=y, text="label", color=colour),
    ]
    return alt.layer(*layers).properties(width=860, height=460)


def _subjects(world: World, count: int) -> list[str]:
    """The first panel subjects; without a panel, the subjects of a multi-hop probe."""
    facts = world.facts[world.facts["panel"]]
    if facts.empty:
        hops = world.probes[world.probes["kind"] == "multi_hop"]["supporting_fact_ids"].head(1).explode()
        facts = world.facts[world.facts["fact_id"].isin(hops)] if len(hops) else world.facts
    return facts["entity_id"].unique().tolist()[:count]


def _counts(world: World, documents: pd.DataFrame | None) -> str:
    facts = world.facts
    counts = [f"{len(world.entities):,} entities", f"{len(facts):,} facts in {facts['relation'].nunique()} relations"]
    counts += [f"{int(facts['seen'].sum()):,} of them seen in training", f"{len(world.probes):,} probes"]
    counts += [] if documents is None else [f"{len(documents):,} documents"]
    return ", ".join(counts) + "."


def _documents(world: World, documents: pd.DataFrame, subjects: list[str], examples: int) -> str:
    facts, names = world.facts.set_index("fact_id"), world.entities.set_index("entity_id")["name"]
    mentions = documents[[bool(set(ids) & set(subjects)) for ids in documents["entity_ids"]]]
    selected = (mentions if len(mentions) else documents).groupby("kind", sort=False).head(examples).sort_values("kind")
    rows = []
    for document in selected.itertuples():
        values, names_ = (
            [facts.loc[fact, "value"] for fact in document.fact_ids],
            [names[entity_id] for entity_id in document.entity_ids],
        )
        rows.append(f"<tr><td class=kind>{document.kind}<td>{_highlight(document.text, values, names_)}")
    return f"<table>{''.join(rows)}</table>"


def _highlight(text: str, values: list[str], names: list[str]) -> str:
    tags = {html.escape(name): "b" for name in names} | {html.escape(value): "mark" for value in values}
    pattern = "|".join(re.escape(word) for word in sorted(tags, key=len, reverse=True))
    text = html.escape(text)
    return re.sub(pattern, lambda match: f"<{tags[match[0]]}>{match[0]}</{tags[match[0]]}>", text) if tags else text


def _answer(probe: Any) -> str:
    target = html.escape(probe.target)
    return f"<s>{target}</s> (should not follow)" if probe.kind == "negated" else f"<mark>{target}</mark>"


def _probes(world: World, subject: str) -> str:
    own_probes = world.probes[world.probes["fact_id"].str.split(".").str[0] == subject]
    other_probes = world.probes[~world.probes["kind"].isin(own_probes["kind"])]
    rows = pd.concat([own_probes, other_probes]).groupby("kind", sort=False).head(1)
    lines = [f"<tr><td class=kind>{row.kind}<td>{html.escape(row.prompt)} {_answer(row)}" for row in rows.itertuples()]
    return f"<table>{''.join(lines)}</table>"
