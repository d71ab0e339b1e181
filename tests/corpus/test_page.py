"""The overview page of a world."""

from __future__ import annotations

from factlife.config.corpora import PeopleCorpus
from factlife.config.worlds import PeopleWorld
from factlife.corpus.page import world_page
from factlife.corpus.people import render_documents
from factlife.world import build_world


def test_page_counts_the_tables_and_highlights_stated_values():
    world = build_world(PeopleWorld(kind="people", people=8, unseen=2, values=4, regions=2, panel=2))
    documents = render_documents(world, PeopleCorpus(kind="people", world="w", statements_per_fact=2))

    page = world_page("w", world, documents)

    n_seen = 8 * 6 + world.entities["kind"].eq("city").sum()
    assert f"{n_seen} of them seen in training, {len(world.probes)} probes, {len(documents)} documents." in page
    names = world.entities.set_index("entity_id")["name"]
    panel = world.facts[world.facts["panel"]].iloc[0]
    assert f"<mark>{panel.value}</mark>" in page and f"<b>{names[panel.entity_id]}</b>" in page
    assert all(f"<td class=kind>{kind}<" in page for kind in world.probes["kind"])
