"""Documents that state the user's own facts, one sentence each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pandas as pd

from factlife.config.corpora import TableCorpus
from factlife.corpus import documents
from factlife.corpus.documents import CorpusError, Document
from factlife.world.tables import World
from factlife.world.templates import Template


def render_documents(world: World, settings: TableCorpus) -> pd.DataFrame:
    """All documents of the corpus in random order: each seen fact ``statements_per_fact`` times, templates in turn.

    Raises:
        CorpusError: ``qa_per_fact`` is set, but a relation has no question template.
    """
    rng = random.Random(f"table corpus {settings.seed}")
    name = dict(zip(world.entities["entity_id"], world.entities["name"], strict=True))
    rendered = [
        document
        for fact in world.facts[world.facts["seen"]].itertuples()
        for kind, list_, texts, count in (
            ("statement", "train", fact.templates, settings.statements_per_fact),
            ("question", "question", fact.questions, settings.qa_per_fact),
        )
        for document in _documents(fact, name[fact.entity_id], kind, list_, list(texts), count, rng)
    ]
    rng.shuffle(rendered)
    return documents.documents_table(rendered)


def _documents(
    fact: Any, subject: str, kind: str, list_: str, texts: list[str], n_per_exposure: int, rng: random.Random
) -> Iterator[Document]:
    templates = [Template(f"{list_}{index}", text) for index, text in enumerate(texts)]
    if n_per_exposure and not templates:
        raise CorpusError(
            f"`qa_per_fact` is {n_per_exposure}, but the relation {fact.relation!r} has no `question` templates; "
            "add one to the world's template file or set `qa_per_fact` to 0"
        )
    shuffled = rng.sample(templates, len(templates))
    for index in range(n_per_exposure * fact.exposures):
        template = shuffled[index % len(shuffled)]
        text = template.sentence(subject, fact.value)
        yield Document(text, kind, [fact.fact_id], [fact.entity_id], [f"{fact.relation}.{template.id}"])
