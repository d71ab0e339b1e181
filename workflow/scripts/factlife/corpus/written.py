"""Prose about facts, written by a language model; every answer is stored, and only answers that pass a check are used."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from factlife.config.written import API_KEY_VARIABLE, WrittenCorpus
from factlife.corpus import documents
from factlife.corpus.documents import CorpusError, Document
from factlife.world.tables import World

Writer = Callable[[str], str]

# Concurrent requests to the API.
_MAX_CONCURRENT = 8
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
    """A writer's answers in a JSONL file: stored answers are reused, new ones are requested and stored immediately."""

    def __init__(self, path: str | Path, writer: Writer | None) -> None:
        self.path, self.writer, self.lock = Path(path), writer, threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_text() if self.path.exists() else ""
        # A killed job may have left an incomplete line.
        if not text.endswith("\n") and text:
            text = text[: text.rfind("\n") + 1]
            self.path.write_text(text)
        lines = [json.loads(line) for line in text.splitlines()]
        self.answers = {_canonical(line["request"]): line["answer"] for line in lines if "request" in line}
        self.complete_fingerprints = {line["complete"] for line in lines if "complete" in line}

    def __call__(self, request: dict) -> str:
        """The answer to a request; the writer reads its ``prompt``.

        Raises:
            CorpusError: the answer is not stored and there is no writer.
        """
        if (stored := self.answers.get(_canonical(request))) is not None:
            return stored
        if self.writer is None:
            raise CorpusError(
                f"{self.path} does not contain all answers, and {API_KEY_VARIABLE} is not set; set it or provide the complete file"
            )
        answer = self.writer(request["prompt"])
        self._append({"request": request, "answer": answer})
        self.answers[_canonical(request)] = answer
        return answer

    def finish(self, fingerprint: str) -> None:
        """Record that all answers for these settings are stored, so the next run needs no key."""
        if fingerprint not in self.complete_fingerprints:
            self._append({"complete": fingerprint})

    def _append(self, line: dict) -> None:
        with self.lock, self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def api_writer(settings: WrittenCorpus) -> Writer | None:
    """A writer that calls Anthropic's API, or None without a key. The API's library retries failed requests."""
    if not os.environ.get(API_KEY_VARIABLE):
        return None
    from anthropic import Anthropic

    client = Anthropic(api_key=os.environ[API_KEY_VARIABLE])
    extra_body = None if settings.temperature is None else {"temperature": settings.temperature}

    def write(prompt: str) -> str:
        message = client.messages.create(
            model=settings.writer.model,
            max_tokens=settings.max_tokens,
            messages=[{"role": "user", "content": prompt}],
            extra_body=extra_body,  # the library has no parameter for the temperature
        )
        return "".join(block.text for block in message.content if block.type == "text")

    return write


def generate_documents(
    world: World, settings: WrittenCorpus, answers: AnswerCache
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Generate documents and check them.

    Returns:
        The accepted documents in random order, and one row per answer: ``entity_id, version, attempt, verdict, mention``.
        The verdict is ``accepted``, ``missing``, ``other_value`` or ``other_name``; ``mention`` is the name or value that
        is missing or should not be there.

    Raises:
        CorpusError: an answer is missing and there is no writer, or no answer passed.
    """
    text_check = TextCheck(world)
    names = dict(zip(world.entities["entity_id"], world.entities["name"], strict=True))
    seen_facts = world.facts[world.facts["seen"]]
    tasks = [
        (subject, names[subject], list(facts.itertuples()), version)
        for subject, facts in seen_facts.groupby("entity_id", sort=False)
        for version in range(settings.documents_per_subject * facts["exposures"].iloc[0])
    ]

    def write(task: tuple) -> tuple[Document | None, list[dict]]:
        subject, name, facts, version = task
        verdicts = []
        for attempt in range(settings.attempts):
            text = " ".join(answers(_request(settings, name, facts, version, attempt)).split())
            verdict, mention = text_check(text, name, [fact.value for fact in facts])
            verdicts.append(
                {"entity_id": subject, "version": version, "attempt": attempt, "verdict": verdict, "mention": mention}
            )
            if verdict == "accepted":
                form = f"written.{version % len(_FORMS)}"
                return Document(text, "written", [fact.fact_id for fact in facts], [subject], [form]), verdicts
        return None, verdicts

    with ThreadPoolExecutor(_MAX_CONCURRENT if settings.writer.kind == "anthropic" else 1) as pool:
        results = list(pool.map(write, tasks))
    accepted = [document for document, _ in results if document]
    if not accepted:
        raise CorpusError("no answer passed the check; read the table of verdicts or choose another writer")
    random.Random("written corpus").shuffle(accepted)
    return documents.documents_table(accepted), pd.DataFrame(
        [verdict for _, verdicts in results for verdict in verdicts]
    )


def _request(settings: WrittenCorpus, name: str, facts: Iterable[Any], version: int, attempt: int) -> dict:
    fact_lines = "\n".join(f"- {fact.relation.replace('_', ' ')}: {fact.value}" for fact in facts)
    form = _FORMS[version % len(_FORMS)]
    return {
        "model": settings.writer.model,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "prompt": _PROMPT.format(form=form, name=name, facts=fact_lines, version=version + 1),
        "attempt": attempt,
    }


class TextCheck:
    """Check that a text mentions the required name and values and no other name or value of the world."""

    def __init__(self, world: World) -> None:
        self.names = {_words(name) for name in world.entities["name"]}
        self.values = {_words(value) for value in world.facts["value"]}
        self.max_words = max(map(len, self.names | self.values))

    def __call__(self, text: str, name: str, values: Iterable[str]) -> tuple[str, str]:
        """The verdict and the mention that caused it."""
        mentions = set(self._mentions(text))
        required = [_words(name), *map(_words, values)]
        for words in required:
            if words not in mentions:
                return "missing", " ".join(words)
        for words in sorted(mentions.difference(required)):
            return "other_name" if words in self.names else "other_value", " ".join(words)
        return "accepted", ""

    def _mentions(self, text: str) -> Iterator[tuple[str, ...]]:
        """Names and values in the order of the text; the longest match at each word."""
        words, position = _words(text), 0
        while position < len(words):
            for length in range(min(self.max_words, len(words) - position), 0, -1):
                candidate = words[position : position + length]
                if candidate in self.names or candidate in self.values:
                    yield candidate
                    break
            else:
                length = 1
            position += length


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text))


def _canonical(request: dict) -> str:
    return json.dumps(request, sort_keys=True)
