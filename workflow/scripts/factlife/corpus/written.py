"""Prose about facts by a language model: every answer is kept, and checked against what it must and must not state."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from factlife.config.written import API_KEY_VARIABLE, WrittenCorpus
from factlife.corpus import documents
from factlife.corpus.documents import CorpusError, Document
from factlife.world.tables import World

Ask = Callable[[str], str]

# Requests to the API that are on their way at once.
_AT_ONCE = 8
_FORMS = [
    "a short biography",
    "an entry in an encyclopedia",
    "a notice in a newspaper",
    "a letter of recommendation",
    "the start of a speech in honour of somebody",
]
_PROMPT = """\
Write one paragraph of plain English in the form of {form}. It must state all of these facts about {name}, in an order \
and in words of your own, with the name and every value spelled exactly as here:
{facts}
Use the whole name each time. State no other dates, places, schools, employers or names of people, deny nothing, and \
answer with the paragraph alone. (Version {version}.)"""


class AnswerCache:
    """A writer's answers in a JSONL file: one that is there is replayed, another is asked for and kept at once."""

    def __init__(self, path: str | Path, ask: Ask | None) -> None:
        self.path, self.ask, self.lock = Path(path), ask, threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_text() if self.path.exists() else ""
        # A job that was killed may have left half a line.
        if not text.endswith("\n") and text:
            text = text[: text.rfind("\n") + 1]
            self.path.write_text(text)
        lines = [json.loads(line) for line in text.splitlines()]
        self.known = {_canonical(line["request"]): line["answer"] for line in lines if "request" in line}
        self.complete = {line["complete"] for line in lines if "complete" in line}

    def __call__(self, request: dict) -> str:
        """The answer to a request, whose ``prompt`` is what the writer reads.

        Raises:
            CorpusError: it is not there, and there is nobody to ask.
        """
        if (known := self.known.get(_canonical(request))) is not None:
            return known
        if self.ask is None:
            raise CorpusError(
                f"{self.path} does not hold all answers, and {API_KEY_VARIABLE} is not set; set it, or bring the whole file"
            )
        answer = self.ask(request["prompt"])
        self._keep({"request": request, "answer": answer})
        self.known[_canonical(request)] = answer
        return answer

    def finish(self, mark: str) -> None:
        """Note that nothing is missing for what has this mark, so that the next run needs no key."""
        if mark not in self.complete:
            self._keep({"complete": mark})

    def _keep(self, line: dict) -> None:
        with self.lock, self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def api_writer(settings: WrittenCorpus) -> Ask | None:
    """Asks Anthropic's API; nothing without a key. Failed requests are repeated as its library does."""
    if not os.environ.get(API_KEY_VARIABLE):
        return None
    from anthropic import Anthropic

    client = Anthropic(api_key=os.environ[API_KEY_VARIABLE])
    more = None if settings.temperature is None else {"temperature": settings.temperature}

    def ask(prompt: str) -> str:
        message = client.messages.create(
            model=settings.writer.model,
            max_tokens=settings.max_tokens,
            messages=[{"role": "user", "content": prompt}],
            extra_body=more,  # the library itself no longer knows temperatures
        )
        return "".join(block.text for block in message.content if block.type == "text")

    return ask


def generate_documents(
    world: World, settings: WrittenCorpus, answers: AnswerCache
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The documents that passed, in random order, and what became of every answer.

    Returns:
        The documents, and one row per answer: ``entity_id, version, attempt, verdict, mention``, where a verdict is
        ``accepted``, ``missing``, ``other_value`` or ``other_name``, about what.

    Raises:
        CorpusError: an answer is missing and cannot be asked for, or none passed.
    """
    check = TextCheck(world)
    name = dict(zip(world.entities["entity_id"], world.entities["name"], strict=True))
    taught = world.facts[world.facts["seen"]]
    tasks = [
        (subject, name[subject], list(facts.itertuples()), version)
        for subject, facts in taught.groupby("entity_id", sort=False)
        for version in range(settings.documents_per_subject * facts["exposures"].iloc[0])
    ]

    def write(task: tuple) -> tuple[Document | None, list[dict]]:
        subject, called, facts, version = task
        verdicts = []
        for attempt in range(settings.attempts):
            text = " ".join(answers(_request(settings, called, facts, version, attempt)).split())
            verdict, about = check(text, called, [fact.value for fact in facts])
            verdicts.append(
                {"entity_id": subject, "version": version, "attempt": attempt, "verdict": verdict, "mention": about}
            )
            if verdict == "accepted":
                form = f"written.{version % len(_FORMS)}"
                return Document(text, "written", [fact.fact_id for fact in facts], [subject], [form]), verdicts
        return None, verdicts

    with ThreadPoolExecutor(_AT_ONCE if settings.writer.kind == "anthropic" else 1) as pool:
        done = list(pool.map(write, tasks))
    made = [document for document, _ in done if document]
    if not made:
        raise CorpusError(
            "no answer states what it must and nothing else; read the table of verdicts, take another writer"
        )
    random.Random("written corpus").shuffle(made)
    return documents.documents_table(made), pd.DataFrame([verdict for _, verdicts in done for verdict in verdicts])


def _request(settings: WrittenCorpus, name: str, facts: Iterable[tuple], version: int, attempt: int) -> dict:
    said = "\n".join(f"- {fact.relation.replace('_', ' ')}: {fact.value}" for fact in facts)
    form = _FORMS[version % len(_FORMS)]
    return {
        "model": settings.writer.model,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "prompt": _PROMPT.format(form=form, name=name, facts=said, version=version + 1),
        "attempt": attempt,
    }


class TextCheck:
    """Whether a text states what it must, and no other name or value of the world."""

    def __init__(self, world: World) -> None:
        self.names = {_words(name) for name in world.entities["name"]}
        self.values = {_words(value) for value in world.facts["value"]}
        self.longest = max(map(len, self.names | self.values))

    def __call__(self, text: str, name: str, values: Iterable[str]) -> tuple[str, str]:
        """The verdict, and what it is about."""
        found = set(self._mentions(text))
        wanted = [_words(name), *map(_words, values)]
        for words in wanted:
            if words not in found:
                return "missing", " ".join(words)
        for words in sorted(found.difference(wanted)):
            return "other_name" if words in self.names else "other_value", " ".join(words)
        return "accepted", ""

    def _mentions(self, text: str) -> Iterator[tuple[str, ...]]:
        """Names and values in the order of the text; of those that begin at one word, the longest."""
        words, place = _words(text), 0
        while place < len(words):
            for length in range(min(self.longest, len(words) - place), 0, -1):
                some = words[place : place + length]
                if some in self.names or some in self.values:
                    yield some
                    break
            else:
                length = 1
            place += length


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text))


def _canonical(request: dict) -> str:
    return json.dumps(request, sort_keys=True)
