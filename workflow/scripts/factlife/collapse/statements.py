"""Parsing of the facts that a text of a ``people`` corpus states, with the templates of such texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from factlife.world import World
from factlife.world.people import PRONOUN, negated_templates, question_template, relation_templates
from factlife.world.templates import Template

STATEMENT_COLUMNS = ["text_index", "relation", "name", "value", "negated", "fact_id", "verdict"]
# A name or a value: any words without those that join statements and end sentences.
_WORDS = r"(?:(?! and\b)[^,.:?])+?"


class StatementParser:
    """Parses statements in all templates of a world's relations: training and held-out ones, joined, negated, questions.

    A sentence ends with a full stop. A statement about an unknown subject or with an unknown value gets the verdict
    ``unknown``. A sentence that matches no template states nothing.
    """

    def __init__(self, world: World) -> None:
        self.entity = dict(zip(world.entities["name"], world.entities["entity_id"], strict=True))
        keys = zip(world.facts["entity_id"], world.facts["relation"], strict=True)
        self.fact = dict(zip(keys, zip(world.facts["fact_id"], world.facts["value"], strict=True), strict=True))
        relations = world.facts["relation"].unique()
        self.values = {relation: set(rows["value"]) for relation, rows in world.facts.groupby("relation")}
        self.phrases = {
            _phrase(template): (relation, False) for relation in relations for template in _verb_templates(relation)
        }
        self.phrases |= {
            _phrase(template): (relation, True) for relation in relations for template in negated_templates(relation)
        }
        self.phrase_pattern = re.compile(
            "|".join(rf" {re.escape(phrase)} " for phrase in sorted(self.phrases, key=len, reverse=True))
        )
        sentences = [
            (relation, template)
            for relation in relations
            for template in [*_noun_templates(relation), question_template(relation)]
        ]
        self.sentence_relations = [relation for relation, _ in sentences]
        self.sentence_pattern = re.compile("|".join(_pattern(i, template) for i, (_, template) in enumerate(sentences)))

    def parse(self, texts: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """All statements of some texts.

        Returns:
            Statements: ``text_index``, ``relation, name, value``, whether the statement is ``negated``, and its ``fact_id``
            and ``verdict``: ``true`` if it agrees with the world, ``false`` if not, ``unknown`` if the world has no such
            subject or no such value. And one row per text: the number of ``sentences`` and of ``parsed_sentences``.
        """
        rows, counts = [], []
        for i, text in enumerate(texts):
            n_parsed, subject = 0, None
            sentences = [part for part in (part.strip() for part in re.split(r"(?<= \.)(?: |$)", text)) if part]
            for sentence in sentences:
                statements = list(self._sentence_statements(sentence))
                n_parsed += bool(statements)
                for relation, name, value, negated in statements:
                    subject = subject if name == PRONOUN else name
                    verdict = self._verdict(subject, relation, value, negated)
                    rows.append((i, relation, subject, value, negated, *verdict))
            counts.append((len(sentences), n_parsed))
        statements = pd.DataFrame(rows, columns=STATEMENT_COLUMNS).astype({"text_index": int, "negated": bool})
        return statements, pd.DataFrame(counts, columns=["sentences", "parsed_sentences"])

    def _sentence_statements(self, sentence: str) -> Iterator[tuple[str, str, str, bool]]:
        if match := self.sentence_pattern.fullmatch(sentence):
            i = int(str(match.lastgroup)[1:])
            yield self.sentence_relations[i], match[f"n{i}"], match[f"v{i}"], False
        elif sentence.endswith(" .") and (matches := [*self.phrase_pattern.finditer(sentence)]):
            ends = [*(match.start() for match in matches[1:]), len(sentence)]
            values = [sentence[match.end() : end] for match, end in zip(matches, ends, strict=True)]
            separators = [" ,"] * (len(matches) - 2) + [" and"] * (len(matches) > 1) + [" ."]
            name, is_words = sentence[: matches[0].start()], re.compile(_WORDS).fullmatch
            well_formed = all(value.endswith(end) for value, end in zip(values, separators, strict=True))
            if well_formed and all(map(is_words, [name, *map(str.removesuffix, values, separators)])):
                for match, value, separator in zip(matches, values, separators, strict=True):
                    relation, negated = self.phrases[match[0].strip()]
                    yield relation, name, value.removesuffix(separator), negated

    def _verdict(self, name: str | None, relation: str, value: str, negated: bool) -> tuple[str | None, str]:
        fact, true_value = self.fact.get((self.entity.get(name), relation), (None, None))
        if fact is None or value not in self.values[relation]:
            return fact, "unknown"
        return fact, "true" if (value == true_value) is not negated else "false"


def _verb_templates(relation: str) -> list[Template]:
    return [template for template in relation_templates(relation) if template.id.startswith("verb")]


def _noun_templates(relation: str) -> list[Template]:
    return [template for template in relation_templates(relation) if template.id.startswith("noun")]


def _phrase(template: Template) -> str:
    """The words between name and value."""
    return template.text.removeprefix("{name} ").removesuffix(" {value} .")


def _pattern(index: int, template: Template) -> str:
    """A regular expression for the whole sentence, whose last group has a name that ends in the index."""
    text = re.escape(template.text)
    for slot, group in (("name", "n"), ("value", "v")):
        text = text.replace(re.escape(f"{{{slot}}}"), f"(?P<{group}{index}>{_WORDS})")
    return text
