"""Documents that state the user's own facts, one sentence each."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pandas as pd

from factlife.config.corpora import TableCorpus
from factlife.corpus import documents
from factlife.corpus.documents import CorpusError, Document
from factlife.world.tables import World
from factlife.world.templates import Template


def render_documents(world: World, settings: TableCorpus) -> pd.DataFrame:
    """All documents of the corpus, in random order: each taught fact ``statements_per_fact`` times, templates in turn.

    Raises:
        CorpusError: questions are asked for and a relation has no question template.
    """
    rng = random.Random(f"table corpus {settings.seed}")
    name = dict(zip(world.entities["entity_id"], world.entities["name"], strict=True))
    made = [
        document
        for fact in world.facts[world.facts["seen"]].itertuples()
        for kind, list_, texts, times in (
            ("statement", "train", fact.templates, settings.statements_per_fact),
            ("question", "question", fact.questions, settings.qa_per_fact),
        )
        for document in _documents(fact, name[fact.entity_id], kind, list_, list(texts), times, rng)
    ]
    rng.shuffle(made)
    return documents.documents_table(made)


def _documents(
    fact: tuple, subject: str, kind: str, list_: str, texts: list[str], times: int, rng: random.Random
) -> Iterator[Document]:
    templates = [Template(f"{list_}{number}", text) for number, text in enumerate(texts)]
    if times and not templates:
        raise CorpusError(
            f"`qa_per_fact` is {times}, but the relation {fact.relation!r} has no `question` templates; "
            "add one to the world's file of templates or set it to 0"
        )
    order = rng.sample(templates, len(templates))
    for number in range(times * fact.exposures):
        template = order[number % len(order)]
        text = template.sentence(subject, fact.value)
        yield Document(text, kind, [fact.fact_id], [fact.entity_id], [f"{fact.relation}.{template.id}"])
