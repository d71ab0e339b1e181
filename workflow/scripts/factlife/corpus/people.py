"""Documents about people: biographies, windows of sentences about different people, questions."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pandas as pd

from factlife.config.corpora import PeopleCorpus
from factlife.corpus import documents
from factlife.corpus.documents import Document
from factlife.world.people import PRONOUN, negated_templates, question_template, relation_templates, verb_templates
from factlife.world.tables import World
from factlife.world.templates import train_templates

Fact = tuple  # a row of the facts table


def render_documents(world: World, settings: PeopleCorpus) -> pd.DataFrame:
    """All documents of the corpus, in random order.

    A fact of relative frequency f is stated ``f * statements_per_fact`` times in biographies and windows, and, where its
    subject is asked, ``f * qa_per_fact`` times in questions. Replayed documents about early people come on top:
    a random choice of those that a corpus about them would have.
    """
    writer = _Writer(world, settings)
    everything = writer.everything()
    if settings.replay_fraction:
        # New renderings, not those of the corpus about early people.
        early = _Writer(world, settings.model_copy(update={"about": "old"}), "replayed people").everything()
        wanted = round(len(everything) * settings.replay_fraction / (1 - settings.replay_fraction))
        everything += [early[number % len(early)] for number in range(wanted)]
        writer.rng.shuffle(everything)
    return documents.documents_table(everything)


def _subjects(world: World, about: str) -> pd.Series:
    if about == "all":
        return world.entities["entity_id"]
    return world.entities["entity_id"][world.entities["new"] == (about == "new")]


class _Writer:
    def __init__(self, world: World, settings: PeopleCorpus, numbers: str = "people corpus") -> None:
        self.settings = settings
        self.rng = random.Random(f"{numbers} {settings.seed}")
        self.name = dict(zip(world.entities["entity_id"], world.entities["name"], strict=True))
        asked = set(world.entities["entity_id"][world.entities["split"] == "qa_train"])
        self.reversed = asked if settings.reversed_subjects == "qa_train" else {*self.name}
        taught = world.facts[world.facts["seen"]]
        self.pools = {relation: sorted(rows["value"].unique()) for relation, rows in taught.groupby("relation")}
        taught = taught[taught["entity_id"].isin(_subjects(world, settings.about))]
        if settings.relations is not None:
            taught = taught[taught["relation"].isin(settings.relations)]
        self.facts = {subject: list(rows.itertuples()) for subject, rows in taught.groupby("entity_id", sort=False)}
        self.asked = [fact for subject in self.facts if subject in asked for fact in self.facts[subject]]

    def everything(self) -> list[Document]:
        """All documents, in random order."""
        made = [*self.biographies(), *self.windows(), *self.questions()]
        self.rng.shuffle(made)
        return made

    def times(self, fact: Fact) -> tuple[int, int]:
        """How often a fact is stated in biographies and in windows."""
        total = fact.exposures * self.settings.statements_per_fact
        in_windows = round(total * self.settings.window_fraction)
        return total - in_windows, in_windows

    def biographies(self) -> Iterator[Document]:
        for facts in self.facts.values():
            count, _ = self.times(facts[0])
            distinct = [self.biography(facts) for _ in range(min(count, self.settings.distinct_biographies or count))]
            yield from (distinct[number % len(distinct)] for number in range(count))

    def biography(self, facts: list[Fact]) -> Document:
        """All facts of one person, some of them joined under one mention."""
        order = self.rng.sample(facts, len(facts)) if self.settings.permute else list(facts)
        sentences, used = [], []
        while order:
            together = self.rng.randint(3, 6) if self.rng.random() < self.settings.joined_fraction else 1
            group, order = order[:together], order[together:]
            sentence, ids = self.sentence(group, PRONOUN if sentences and not self.settings.fullname else None)
            sentences.append(sentence)
            used += ids
        return Document(" ".join(sentences), "biography", [fact.fact_id for fact in facts], [facts[0].entity_id], used)

    def windows(self) -> Iterator[Document]:
        """Every stated fact once more in a window, where no two sentences share a person."""
        waiting = [fact for facts in self.facts.values() for fact in facts for _ in range(self.times(fact)[1])]
        self.rng.shuffle(waiting)
        size = self.settings.window_sentences
        while waiting:
            window: dict[str, Fact] = {}
            later = []
            while waiting and len(window) < size and len(later) < 10 * size:
                fact = waiting.pop()
                if fact.entity_id in window:
                    later.append(fact)
                else:
                    window[fact.entity_id] = fact
            waiting += later
            said = [self.sentence([fact]) for fact in window.values()]
            if self.rng.random() < self.settings.negated_fraction:
                said.append(self.denial(self.rng.choice(list(window.values()))))
            text = " ".join(sentence for sentence, _ in said)
            ids = [one for _, used in said for one in used]
            yield Document(text, "window", [fact.fact_id for fact in window.values()], list(window), ids)

    def questions(self) -> Iterator[Document]:
        for fact in self.asked:
            asking = question_template(fact.relation)
            for _ in range(fact.exposures * self.settings.qa_per_fact):
                text = asking.sentence(self.name[fact.entity_id], fact.value)
                yield Document(text, "question", [fact.fact_id], [fact.entity_id], [asking.id])

    def denial(self, fact: Fact) -> tuple[str, list[str]]:
        """A sentence that says of a subject that it does not have somebody else's value."""
        template = self.rng.choice(negated_templates(fact.relation))
        wrong = self.rng.choice([value for value in self.pools[fact.relation] if value != fact.value])
        return template.sentence(self.name[fact.entity_id], wrong), [f"{fact.relation}.{template.id}"]

    def sentence(self, facts: list[Fact], pronoun: str | None = None) -> tuple[str, list[str]]:
        """One sentence that states one fact, or several joined by commas under one mention of the subject."""
        name = pronoun or self.name[facts[0].entity_id]
        if len(facts) == 1:
            forward = pronoun is not None or self.rng.random() >= self.settings.reverse_fraction
            forward |= facts[0].entity_id not in self.reversed
            template = self.rng.choice(train_templates(relation_templates(facts[0].relation), forward=forward))
            return template.sentence(name, facts[0].value), [f"{facts[0].relation}.{template.id}"]
        chosen = [self.rng.choice(verb_templates(fact.relation)) for fact in facts]
        said = [
            template.sentence("", fact.value).strip().removesuffix(" .")
            for template, fact in zip(chosen, facts, strict=True)
        ]
        ids = [f"{fact.relation}.{template.id}" for template, fact in zip(chosen, facts, strict=True)]
        return f"{name} {' , '.join(said[:-1])} and {said[-1]} .", ids
