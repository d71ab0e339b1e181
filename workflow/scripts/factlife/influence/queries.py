"""What is asked, which documents are ranked, and which of them are relevant: truth along the whole chain."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pandas as pd

from factlife.config.influence import InfluenceSettings
from factlife.influence.errors import InfluenceError
from factlife.world.tables import World


def select_queries(world: World, settings: InfluenceSettings) -> pd.DataFrame:
    """The probes that are attributed.

    Returns:
        ``query_id, fact_id, subject, group, prompt, completion, candidates, chain`` and ``depth``. ``chain`` maps each
        fact behind the answer to its distance, in subjects, from the one asked about; ``depth`` is the largest.
        ``group`` is the subject's kind and, for functions, whether its number is stated (``rule``) or not (``test``).

    Raises:
        InfluenceError: no probe fits the settings.
    """
    probes, facts = world.probes, world.facts.set_index("fact_id")
    asked = facts.loc[probes["fact_id"]]
    kept = probes["kind"].isin(settings.probe_kinds).to_numpy(copy=True)
    if settings.relations is not None:
        kept &= asked["relation"].isin(settings.relations).to_numpy()
    if settings.panel_only:
        kept &= asked["panel"].to_numpy()
    entities = world.entities.set_index("entity_id")
    kept &= (entities.loc[asked["entity_id"], "kind"] != "distractor").to_numpy()
    chosen = probes[kept].groupby("fact_id", sort=False).head(settings.probes_per_fact)
    if chosen.empty:
        raise InfluenceError(
            "no probe of the world fits influence.models: check `probe_kinds`, `relations` and `panel_only`"
        )
    links = _links(world)
    chains = [chain(list(probe.supporting_fact_ids), facts, links) for probe in chosen.itertuples()]
    subjects = [facts.at[next(iter(found)), "entity_id"] for found in chains]
    return pd.DataFrame(
        {
            "query_id": chosen["probe_id"].to_numpy(),
            "fact_id": chosen["fact_id"].to_numpy(),
            "subject": subjects,
            "group": [_group(entities.loc[subject]) for subject in subjects],
            "prompt": chosen["prompt"].to_numpy(),
            "completion": chosen["target"].to_numpy(),
            "candidates": chosen["candidates"].to_numpy(),
            "chain": chains,
            "depth": [max(found.values()) for found in chains],
        }
    )


def _group(entity: pd.Series) -> str:
    return f"{entity['kind']} {entity['split']}" if entity["kind"] == "wrapper" else entity["kind"]


def _links(world: World) -> dict[tuple[str, str], tuple[str, str]]:
    """For subject and relation: the fact that names another subject with such a fact, and that other fact."""
    by_subject = {(fact.entity_id, fact.relation): fact.fact_id for fact in world.facts.itertuples()}
    relations = world.facts.groupby("entity_id")["relation"].agg(list)
    found = {}
    for fact in world.facts.itertuples():
        for relation in relations.get(fact.value_id, []):
            if relation != fact.relation and (fact.entity_id, relation) in by_subject:
                found[fact.entity_id, relation] = (fact.fact_id, by_subject[fact.value_id, relation])
    return found


def chain(supporting: list[str], facts: pd.DataFrame, links: dict[tuple[str, str], tuple[str, str]]) -> dict[str, int]:
    """Every fact behind an answer with its distance: 0 for facts of the subject asked about, 1 for those of the next.

    A wrapper whose number is stated rests on the statement and, all the same, on what it wraps.
    """
    order: dict[str, int] = {}
    distances = {}
    waiting = list(supporting)
    while waiting:
        fact = waiting.pop(0)
        subject, relation = facts.at[fact, "entity_id"], facts.at[fact, "relation"]
        distances[fact] = order.setdefault(subject, len(order))
        if not waiting and (link := links.get((subject, relation))):
            distances[link[0]] = order[subject]
            waiting = [link[1]]
    return distances


def select_documents(documents: pd.DataFrame, queries: pd.DataFrame, settings: InfluenceSettings) -> pd.DataFrame:
    """The documents that are ranked: those that models train on, or as many of them as the settings ask for.

    Where they are fewer, they are chosen at random, but one document is chosen first for each fact behind a query, so
    that every query has something to find.

    Raises:
        InfluenceError: an id occurs twice or is missing, or a document is empty.
    """
    documents = documents[documents["split"] == "train"].reset_index(drop=True)
    if (missing := documents["doc_id"].isna() | (documents["doc_id"] == "")).any():
        raise InfluenceError(f"document {int(missing.argmax())} has no doc_id; give each document its own")
    if (repeated := documents["doc_id"].duplicated()).any():
        raise InfluenceError(f"doc_id {documents['doc_id'][repeated].iloc[0]!r} occurs more than once; ids must differ")
    if (empty := documents["text"].str.strip() == "").any():
        raise InfluenceError(f"document {documents['doc_id'][empty].iloc[0]} is empty; give it a text or take it out")
    if settings.documents is None or settings.documents >= len(documents):
        return documents
    rng = random.Random(f"influence {settings.seed}")
    stating = _inverse(documents["fact_ids"])
    wanted = sorted({fact for found in queries["chain"] for fact in found} & set(stating))
    chosen = {rng.choice(stating[fact]) for fact in wanted}
    if len(chosen) > settings.documents:
        raise InfluenceError(f"{settings.documents} documents cannot state {len(wanted)} facts; raise `documents`")
    others = sorted(set(range(len(documents))) - chosen)
    chosen |= set(rng.sample(others, settings.documents - len(chosen)))
    return documents.iloc[sorted(chosen)].reset_index(drop=True)


@dataclass(frozen=True)
class Relevance:
    """What is known of every pair of query and document; arrays are (queries, documents).

    Attributes:
        distance: of the nearest fact on the query's chain that the document states; -1 where it states none.
        terminal: the document states the fact at the chain's end, where the value comes from.
        same_value: it states another subject's fact, of the same kind, with the value of the chain's end.
        hard_negative: it mentions a subject of the chain, or a distractor function of the same value, and states no fact of the chain.
    """

    distance: np.ndarray
    terminal: np.ndarray
    same_value: np.ndarray
    hard_negative: np.ndarray

    @property
    def gain(self) -> np.ndarray:
        """Graded relevance: 1 at the subject asked about, 1/2 at the next, 1/3 at the one after; 0 off the chain."""
        return np.where(self.distance < 0, 0.0, 1.0 / (1 + np.maximum(self.distance, 0)))


def label_relevance(queries: pd.DataFrame, documents: pd.DataFrame, world: World) -> Relevance:
    """Compare the facts of chains with those that documents state.

    Raises:
        InfluenceError: no document among those ranked states any fact of a query's chain.
    """
    facts = world.facts.set_index("fact_id")
    kinds = world.entities.set_index("entity_id")["kind"]
    stating = _inverse(documents["fact_ids"])
    mentioning = _inverse(documents["entity_ids"])
    of_value: dict[tuple[str, str, str], list[str]] = {}
    for fact in world.facts.itertuples():
        of_value.setdefault((fact.relation, fact.value_id, kinds[fact.entity_id]), []).append(fact.fact_id)
    shape = (len(queries), len(documents))
    distance = np.full(shape, -1)
    terminal, same_value, hard_negative = (np.zeros(shape, dtype=bool) for _ in range(3))
    for row, query in enumerate(queries.itertuples()):
        for fact, steps in sorted(query.chain.items(), key=lambda item: -item[1]):
            distance[row, stating.get(fact, [])] = steps
        if (distance[row] < 0).all():
            raise InfluenceError(
                f"no document that is ranked states a fact behind query {query.query_id}; raise "
                "influence.models.….documents or leave it out"
            )
        end = facts.loc[list(query.chain)[-1]]
        terminal[row, stating.get(end.name, [])] = True
        kind = kinds[end["entity_id"]]
        for fact in of_value[end["relation"], end["value_id"], kind]:
            same_value[row, stating.get(fact, [])] = True
        for subject in {facts.at[fact, "entity_id"] for fact in query.chain}:
            hard_negative[row, mentioning.get(subject, [])] = True
        for fact in of_value.get((end["relation"], end["value_id"], "distractor"), []):
            hard_negative[row, stating.get(fact, [])] = True
    off = distance < 0
    return Relevance(distance, terminal, same_value & off, hard_negative & off)


def _inverse(lists: pd.Series) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, ids in enumerate(lists):
        for one in ids:
            found.setdefault(one, []).append(row)
    return found
