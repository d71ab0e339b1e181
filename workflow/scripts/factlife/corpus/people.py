"""Documents about people: biographies, windows of sentences about different people, and question-answer documents."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pandas as pd

from factlife.config.corpora import PeopleCorpus
from factlife.corpus import documents
from factlife.corpus.documents import Document
from factlife.world.people import PRONOUN, negated_templates, question_template, relation_templates, verb_templates
from factlife.world.tables import World
from factlife.world.templates import train_templates

FactRow = Any  # a row of the facts table


def render_documents(world: World, settings: PeopleCorpus) -> pd.DataFrame:
    """All documents of the corpus, in random order.

    Biographies and windows state a fact of relative frequency f ``f * statements_per_fact`` times. If its subject is in
    the split `qa_train`, ``f * qa_per_fact`` question-answer documents are added. Replayed documents are a random
    choice from a corpus about old people.
    """
    renderer = _Renderer(world, settings)
    rendered = renderer.all_documents()
    if settings.replay_fraction:
        # Newly rendered documents, not copies from the corpus about old people.
        old_documents = _Renderer(
            world, settings.model_copy(update={"about": "old"}), "replayed people"
        ).all_documents()
        n_replayed = round(len(rendered) * settings.replay_fraction / (1 - settings.replay_fraction))
        rendered += [old_documents[i % len(old_documents)] for i in range(n_replayed)]
        renderer.rng.shuffle(rendered)
    return documents.documents_table(rendered)


def _subjects(world: World, about: str) -> pd.Series:
    if about == "all":
        return world.entities["entity_id"]
    return world.entities["entity_id"][world.entities["new"] == (about == "new")]


class _Renderer:
    def __init__(self, world: World, settings: PeopleCorpus, seed_prefix: str = "people corpus") -> None:
        self.settings = settings
        self.rng = random.Random(f"{seed_prefix} {settings.seed}")
        self.names = dict(zip(world.entities["entity_id"], world.entities["name"], strict=True))
        qa_subjects = set(world.entities["entity_id"][world.entities["split"] == "qa_train"])
        self.reversible = qa_subjects if settings.reversed_subjects == "qa_train" else {*self.names}
        seen_facts = world.facts[world.facts["seen"]]
        self.pools = {relation: sorted(rows["value"].unique()) for relation, rows in seen_facts.groupby("relation")}
        seen_facts = seen_facts[seen_facts["entity_id"].isin(_subjects(world, settings.about))]
        if settings.relations is not None:
            seen_facts = seen_facts[seen_facts["relation"].isin(settings.relations)]
        self.facts = {subject: list(rows.itertuples()) for subject, rows in seen_facts.groupby("entity_id", sort=False)}
        self.qa_facts = [fact for subject in self.facts if subject in qa_subjects for fact in self.facts[subject]]

    def all_documents(self) -> list[Document]:
        """All documents, in random order."""
        rendered = [*self.biographies(), *self.windows(), *self.questions()]
        self.rng.shuffle(rendered)
        return rendered

    def statement_counts(self, fact: FactRow) -> tuple[int, int]:
        """Number of statements of a fact in biographies and in windows."""
        n_statements = fact.exposures * self.settings.statements_per_fact
        n_in_windows = round(n_statements * self.settings.window_fraction)
        return n_statements - n_in_windows, n_in_windows

    def biographies(self) -> Iterator[Document]:
        for facts in self.facts.values():
            count, _ = self.statement_counts(facts[0])
            distinct = [self.biography(facts) for _ in range(min(count, self.settings.distinct_biographies or count))]
            yield from (distinct[i % len(distinct)] for i in range(count))

    def biography(self, facts: list[FactRow]) -> Document:
        """All facts of one person; one sentence may join several of them."""
        remaining = self.rng.sample(facts, len(facts)) if self.settings.permute else list(facts)
        sentences: list[str] = []
        template_ids: list[str] = []
        while remaining:
            group_size = self.rng.randint(3, 6) if self.rng.random() < self.settings.joined_fraction else 1
            group, remaining = remaining[:group_size], remaining[group_size:]
            sentence, ids = self.sentence(group, PRONOUN if sentences and not self.settings.fullname else None)
            sentences.append(sentence)
            template_ids += ids
        return Document(
            " ".join(sentences), "biography", [fact.fact_id for fact in facts], [facts[0].entity_id], template_ids
        )

    def windows(self) -> Iterator[Document]:
        """Windows of sentences; no two sentences of a window share a person."""
        pending = [
            fact for facts in self.facts.values() for fact in facts for _ in range(self.statement_counts(fact)[1])
        ]
        self.rng.shuffle(pending)
        size = self.settings.window_sentences
        while pending:
            window: dict[str, FactRow] = {}
            postponed: list[FactRow] = []
            while pending and len(window) < size and len(postponed) < 10 * size:
                fact = pending.pop()
                if fact.entity_id in window:
                    postponed.append(fact)
                else:
                    window[fact.entity_id] = fact
            pending += postponed
            sentences = [self.sentence([fact]) for fact in window.values()]
            if self.rng.random() < self.settings.negated_fraction:
                sentences.append(self.negated_sentence(self.rng.choice(list(window.values()))))
            text = " ".join(sentence for sentence, _ in sentences)
            template_ids = [template_id for _, ids in sentences for template_id in ids]
            yield Document(text, "window", [fact.fact_id for fact in window.values()], list(window), template_ids)

    def questions(self) -> Iterator[Document]:
        for fact in self.qa_facts:
            template = question_template(fact.relation)
            for _ in range(fact.exposures * self.settings.qa_per_fact):
                text = template.sentence(self.names[fact.entity_id], fact.value)
                yield Document(text, "question", [fact.fact_id], [fact.entity_id], [template.id])

    def negated_sentence(self, fact: FactRow) -> tuple[str, list[str]]:
        """A true negated sentence: the subject does not have another subject's value."""
        template = self.rng.choice(negated_templates(fact.relation))
        wrong_value = self.rng.choice([value for value in self.pools[fact.relation] if value != fact.value])
        return template.sentence(self.names[fact.entity_id], wrong_value), [f"{fact.relation}.{template.id}"]

    def sentence(self, facts: list[FactRow], pronoun: str | None = None) -> tuple[str, list[str]]:
        """One sentence that states one fact, or several facts of one subject joined by commas."""
        name = pronoun or self.names[facts[0].entity_id]
        if len(facts) == 1:
            forward = pronoun is not None or self.rng.random() >= self.settings.reverse_fraction
            forward |= facts[0].entity_id not in self.reversible
            template = self.rng.choice(train_templates(relation_templates(facts[0].relation), forward=forward))
            return template.sentence(name, facts[0].value), [f"{facts[0].relation}.{template.id}"]
        templates = [self.rng.choice(verb_templates(fact.relation)) for fact in facts]
        clauses = [
            template.sentence("", fact.value).strip().removesuffix(" .")
            for template, fact in zip(templates, facts, strict=True)
        ]
        ids = [f"{fact.relation}.{template.id}" for template, fact in zip(templates, facts, strict=True)]
        return f"{name} {' , '.join(clauses[:-1])} and {clauses[-1]} .", ids
