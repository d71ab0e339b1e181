"""Queries to attribute, documents to rank, and their relevance along the whole chain of facts behind an answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pandas as pd

from factlife.config.influence import InfluenceSettings
from factlife.influence.errors import InfluenceError
from factlife.world.tables import World


def select_queries(world: World, settings: InfluenceSettings) -> pd.DataFrame:
    """The probes used as queries.

    Returns:
        ``query_id, fact_id, subject, group, prompt, completion, candidates, chain`` and ``depth``. ``chain`` maps each
        fact behind the answer to its distance from the query's subject, counted in subjects; ``depth`` is the largest
        distance. ``group`` is the kind of the subject and, for wrapper functions, its split.

    Raises:
        InfluenceError: no probe matches the settings.
    """
    probes, facts = world.probes, world.facts.set_index("fact_id")
    probe_facts = facts.loc[probes["fact_id"]]
    is_selected = probes["kind"].isin(settings.probe_kinds).to_numpy(copy=True)
    if settings.relations is not None:
        is_selected &= probe_facts["relation"].isin(settings.relations).to_numpy()
    if settings.panel_only:
        is_selected &= probe_facts["panel"].to_numpy()
    entities = world.entities.set_index("entity_id")
    is_selected &= (entities.loc[probe_facts["entity_id"], "kind"] != "distractor").to_numpy()
    selected = probes[is_selected].groupby("fact_id", sort=False).head(settings.probes_per_fact)
    if selected.empty:
        raise InfluenceError(
            "no probe of the world matches influence.models: check `probe_kinds`, `relations` and `panel_only`"
        )
    links = _links(world)
    chains = [fact_chain(list(probe.supporting_fact_ids), facts, links) for probe in selected.itertuples()]
    subjects = [facts.at[next(iter(chain)), "entity_id"] for chain in chains]
    return pd.DataFrame(
        {
            "query_id": selected["probe_id"].to_numpy(),
            "fact_id": selected["fact_id"].to_numpy(),
            "subject": subjects,
            "group": [_group(entities.loc[subject]) for subject in subjects],
            "prompt": selected["prompt"].to_numpy(),
            "completion": selected["target"].to_numpy(),
            "candidates": selected["candidates"].to_numpy(),
            "chain": chains,
            "depth": [max(chain.values()) for chain in chains],
        }
    )


def _group(entity: pd.Series) -> str:
    return f"{entity['kind']} {entity['split']}" if entity["kind"] == "wrapper" else entity["kind"]


def _links(world: World) -> dict[tuple[str, str], tuple[str, str]]:
    """Links from one subject's fact to that of another subject.

    Keys are a subject and a relation. Values are two fact ids: the fact whose value is the other subject, and the other
    subject's fact of the same relation.
    """
    fact_ids = {(fact.entity_id, fact.relation): fact.fact_id for fact in world.facts.itertuples()}
    relations = world.facts.groupby("entity_id")["relation"].agg(list)
    links = {}
    for fact in world.facts.itertuples():
        for relation in relations.get(fact.value_id, []):
            if relation != fact.relation and (fact.entity_id, relation) in fact_ids:
                links[fact.entity_id, relation] = (fact.fact_id, fact_ids[fact.value_id, relation])
    return links


def fact_chain(
    supporting: list[str], facts: pd.DataFrame, links: dict[tuple[str, str], tuple[str, str]]
) -> dict[str, int]:
    """All facts behind an answer with their distances: 0 for facts of the query's subject, 1 for those of the next subject.

    A wrapper's number depends on the function that it wraps even if a document states the number.
    """
    subject_distances: dict[str, int] = {}
    distances = {}
    pending = list(supporting)
    while pending:
        fact_id = pending.pop(0)
        subject, relation = facts.at[fact_id, "entity_id"], facts.at[fact_id, "relation"]
        distances[fact_id] = subject_distances.setdefault(subject, len(subject_distances))
        if not pending and (link := links.get((subject, relation))):
            distances[link[0]] = subject_distances[subject]
            pending = [link[1]]
    return distances


def select_documents(documents: pd.DataFrame, queries: pd.DataFrame, settings: InfluenceSettings) -> pd.DataFrame:
    """The documents to rank: all training documents, or as many as the settings ask for.

    A smaller number is chosen at random, starting with one document for each fact behind a query, so that every query has
    a relevant document.

    Raises:
        InfluenceError: an id is missing or not unique, or a document is empty.
    """
    documents = documents[documents["split"] == "train"].reset_index(drop=True)
    if (is_missing := documents["doc_id"].isna() | (documents["doc_id"] == "")).any():
        raise InfluenceError(f"document {int(is_missing.argmax())} has no doc_id; give every document a doc_id")
    if (is_duplicate := documents["doc_id"].duplicated()).any():
        raise InfluenceError(
            f"doc_id {documents['doc_id'][is_duplicate].iloc[0]!r} occurs more than once; ids must be unique"
        )
    if (is_empty := documents["text"].str.strip() == "").any():
        raise InfluenceError(f"document {documents['doc_id'][is_empty].iloc[0]} is empty; add a text or remove it")
    if settings.documents is None or settings.documents >= len(documents):
        return documents
    rng = random.Random(f"influence {settings.seed}")
    rows_of_fact = _rows_by_id(documents["fact_ids"])
    chain_facts = sorted({fact_id for chain in queries["chain"] for fact_id in chain} & set(rows_of_fact))
    selected = {rng.choice(rows_of_fact[fact_id]) for fact_id in chain_facts}
    if len(selected) > settings.documents:
        raise InfluenceError(f"{settings.documents} documents cannot state {len(chain_facts)} facts; raise `documents`")
    remaining = sorted(set(range(len(documents))) - selected)
    selected |= set(rng.sample(remaining, settings.documents - len(selected)))
    return documents.iloc[sorted(selected)].reset_index(drop=True)


@dataclass(frozen=True)
class Relevance:
    """Ground truth for every pair of query and document; arrays are (queries, documents).

    Attributes:
        distance: distance of the nearest fact of the query's chain that the document states; -1 if it states none.
        terminal: the document states the last fact of the chain, the source of the value.
        same_value: the document states that another subject, of the same kind, has the chain's final value.
        hard_negative: the document states no fact of the chain, but mentions a subject of the chain or is about a distractor
            function with the same value.
    """

    distance: np.ndarray
    terminal: np.ndarray
    same_value: np.ndarray
    hard_negative: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """Graded relevance: 1 for the query's subject, 1/2 for the next, 1/3 for the one after; 0 off the chain."""
        return np.where(self.distance < 0, 0.0, 1.0 / (1 + np.maximum(self.distance, 0)))


def label_relevance(queries: pd.DataFrame, documents: pd.DataFrame, world: World) -> Relevance:
    """Compare the facts of each query's chain with those that documents state.

    Raises:
        InfluenceError: no ranked document states any fact of a query's chain.
    """
    facts = world.facts.set_index("fact_id")
    kinds = world.entities.set_index("entity_id")["kind"]
    rows_of_fact = _rows_by_id(documents["fact_ids"])
    rows_of_entity = _rows_by_id(documents["entity_ids"])
    facts_of_value: dict[tuple[str, str, str], list[str]] = {}
    for fact in world.facts.itertuples():
        facts_of_value.setdefault((fact.relation, fact.value_id, kinds[fact.entity_id]), []).append(fact.fact_id)
    shape = (len(queries), len(documents))
    distance = np.full(shape, -1)
    terminal, same_value, hard_negative = (np.zeros(shape, dtype=bool) for _ in range(3))
    for row, query in enumerate(queries.itertuples()):
        for fact_id, fact_distance in sorted(query.chain.items(), key=lambda item: -item[1]):
            distance[row, rows_of_fact.get(fact_id, [])] = fact_distance
        if (distance[row] < 0).all():
            raise InfluenceError(
                f"no ranked document states a fact behind query {query.query_id}; raise influence.models.….documents or "
                "set it to null"
            )
        last_fact = facts.loc[list(query.chain)[-1]]
        terminal[row, rows_of_fact.get(last_fact.name, [])] = True
        kind = kinds[last_fact["entity_id"]]
        for fact_id in facts_of_value[last_fact["relation"], last_fact["value_id"], kind]:
            same_value[row, rows_of_fact.get(fact_id, [])] = True
        for subject in {facts.at[fact_id, "entity_id"] for fact_id in query.chain}:
            hard_negative[row, rows_of_entity.get(subject, [])] = True
        for fact_id in facts_of_value.get((last_fact["relation"], last_fact["value_id"], "distractor"), []):
            hard_negative[row, rows_of_fact.get(fact_id, [])] = True
    off_chain = distance < 0
    return Relevance(distance, terminal, same_value & off_chain, hard_negative & off_chain)


def _rows_by_id(id_lists: pd.Series) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, ids in enumerate(id_lists):
        for item_id in ids:
            rows.setdefault(item_id, []).append(row)
    return rows
