"""Reading the facts that a text of a ``people`` corpus states, from the templates that such texts are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from factlife.world import World
from factlife.world.people import PRONOUN, negated_templates, question_template, relation_templates
from factlife.world.templates import Template

STATEMENTS = ["text", "relation", "name", "value", "denied", "fact_id", "verdict"]
# What a name or a value may be: anything but what joins statements and ends sentences.
_WORDS = r"(?:(?! and\b)[^,.:?])+?"


class Reader:
    """Reads statements in all templates of a world's relations: trained and held-out, joined, denied, as questions.

    A sentence ends with a full stop. Sentences may be about anybody and say anything: who and what the world has never
    heard of makes a statement ``unknown``, and a sentence that no template makes states nothing.
    """

    def __init__(self, world: World) -> None:
        self.entity = dict(zip(world.entities["name"], world.entities["entity_id"], strict=True))
        keys = zip(world.facts["entity_id"], world.facts["relation"], strict=True)
        self.fact = dict(zip(keys, zip(world.facts["fact_id"], world.facts["value"], strict=True), strict=True))
        relations = world.facts["relation"].unique()
        self.values = {relation: set(rows["value"]) for relation, rows in world.facts.groupby("relation")}
        self.phrase = {_phrase(one): (relation, False) for relation in relations for one in _verbs(relation)}
        self.phrase |= {_phrase(one): (relation, True) for relation in relations for one in negated_templates(relation)}
        self.phrases = re.compile(
            "|".join(rf" {re.escape(phrase)} " for phrase in sorted(self.phrase, key=len, reverse=True))
        )
        whole = [(relation, one) for relation in relations for one in [*_nouns(relation), question_template(relation)]]
        self.whole_relation = [relation for relation, _ in whole]
        self.whole = re.compile("|".join(_pattern(number, one) for number, (_, one) in enumerate(whole)))

    def read(self, texts: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """All statements of some texts.

        Returns:
            Statements: ``text`` (number of the text), ``relation, name, value``, whether it is ``denied``, and the
            ``fact_id`` and ``verdict``: ``true`` if the world says the same of this subject (the contrary, if denied),
            ``false`` if not, ``unknown`` if it has no such subject or no such value. And one row per text: how many
            ``sentences`` it has, and how many are ``parsed``.
        """
        rows, counts = [], []
        for number, text in enumerate(texts):
            parsed, subject = 0, None
            sentences = [part for part in (part.strip() for part in re.split(r"(?<= \.)(?: |$)", text)) if part]
            for sentence in sentences:
                found = list(self._statements(sentence))
                parsed += bool(found)
                for relation, name, value, denied in found:
                    subject = subject if name == PRONOUN else name
                    rows.append(
                        (number, relation, subject, value, denied, *self._judge(subject, relation, value, denied))
                    )
            counts.append((len(sentences), parsed))
        statements = pd.DataFrame(rows, columns=STATEMENTS).astype({"text": int, "denied": bool})
        return statements, pd.DataFrame(counts, columns=["sentences", "parsed"])

    def _statements(self, sentence: str) -> Iterator[tuple[str, str, str, bool]]:
        if match := self.whole.fullmatch(sentence):
            number = int(match.lastgroup[1:])
            yield self.whole_relation[number], match[f"n{number}"], match[f"v{number}"], False
        elif sentence.endswith(" .") and (said := [*self.phrases.finditer(sentence)]):
            ends = [*(match.start() for match in said[1:]), len(sentence)]
            values = [sentence[match.end() : end] for match, end in zip(said, ends, strict=True)]
            joints = [" ,"] * (len(said) - 2) + [" and"] * (len(said) > 1) + [" ."]
            name, whole = sentence[: said[0].start()], re.compile(_WORDS).fullmatch
            joined = all(value.endswith(joint) for value, joint in zip(values, joints, strict=True))
            if joined and all(map(whole, [name, *map(str.removesuffix, values, joints)])):
                for match, value, joint in zip(said, values, joints, strict=True):
                    relation, denied = self.phrase[match[0].strip()]
                    yield relation, name, value.removesuffix(joint), denied

    def _judge(self, name: str | None, relation: str, value: str, denied: bool) -> tuple[str | None, str]:
        fact, truth = self.fact.get((self.entity.get(name), relation), (None, None))
        if fact is None or value not in self.values[relation]:
            return fact, "unknown"
        return fact, "true" if (value == truth) is not denied else "false"


def _verbs(relation: str) -> list[Template]:
    return [template for template in relation_templates(relation) if template.id.startswith("verb")]


def _nouns(relation: str) -> list[Template]:
    return [template for template in relation_templates(relation) if template.id.startswith("noun")]


def _phrase(template: Template) -> str:
    """What stands between name and value."""
    return template.text.removeprefix("{name} ").removesuffix(" {value} .")


def _pattern(number: int, template: Template) -> str:
    """A regular expression for the whole sentence, in which the group that closes last ends with the number."""
    text = re.escape(template.text)
    for slot, group in (("name", "n"), ("value", "v")):
        text = text.replace(re.escape(f"{{{slot}}}"), f"(?P<{group}{number}>{_WORDS})")
    return text
