"""World `benchmark`: documents and queries from elsewhere, with what is relevant to what.

A query becomes a probe, and what makes a document relevant becomes a fact that it states. Facts carry the documents that
state them and entities those that mention them in the column ``documents``, from which the corpus is put together.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from factlife.config.worlds import BenchmarkWorld
from factlife.world.tables import World, WorldError, check_world

# Keys of every line, the first an id. Both layouts may call the id of a document or query `uid`, and a prompt `query`.
DOCUMENT_KEYS = ["doc_id", "text"]
_KEYS = {
    "relevance": (DOCUMENT_KEYS, ["query_id", "prompt", "completion", "relevant"]),
    "hops": ([*DOCUMENT_KEYS, "func", "role"], ["query_id", "prompt", "completion", "func"]),
}
_OTHERWISE = {"doc_id": "uid", "query_id": "uid", "prompt": "query"}
_CHAIN = "BCDEFGHIJKL"
_ROLES = {"constant": "base", "identity": "wrapper", "distractor": "distractor"}


def build_world(settings: BenchmarkWorld) -> World:
    """Read documents and queries.

    Raises:
        WorldError: naming the file, the line or the id, and what to change.
    """
    keys = _KEYS[settings.layout]
    documents, queries = read_jsonl(settings.documents, keys[0]), read_jsonl(settings.queries, keys[1])
    make = {"relevance": _relevance, "hops": _hops}[settings.layout]
    return check_world(make(documents, queries, settings))


def read_jsonl(path: str | Path, needed: list[str]) -> pd.DataFrame:
    """A JSONL file as a table, with an ``id`` for each line.

    Raises:
        WorldError: the file is missing or not JSONL, a line lacks a key or its text is empty, or an id repeats.
    """
    path, rows = Path(path), []
    if not path.is_file():
        raise WorldError(f"{path} does not exist; correct the paths of the world of kind benchmark")
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise WorldError(f"{path}, line {number} is not JSON: {error}") from None
        for name in needed:
            record.setdefault(name, record.get(_OTHERWISE.get(name, name)))
            if not _there(record[name]):
                raise WorldError(f"{path}, line {number} has no `{name}`; every line needs {', '.join(needed)}")
        rows.append(record)
    if not rows:
        raise WorldError(f"{path} is empty")
    frame = pd.DataFrame(rows)
    frame["id"] = frame[needed[0]].astype(str)
    if (repeated := frame["id"].duplicated()).any():
        raise WorldError(f"{path}: id {frame['id'][repeated].iloc[0]!r} occurs more than once; ids must differ")
    return frame


def _relevance(documents: pd.DataFrame, queries: pd.DataFrame, settings: BenchmarkWorld) -> World:
    known = set(documents["id"])
    for query in queries.itertuples():
        if not query.relevant:
            raise WorldError(
                f"{settings.queries}: query {query.id!r} has no relevant document; name one or leave it out"
            )
        if lost := sorted({*map(str, query.relevant)} - known):
            raise WorldError(f"{settings.queries}: query {query.id!r} names document {lost[0]!r}, which does not exist")
    answers = queries["completion"].str.strip()
    stated = [[*map(str, ids)] for ids in queries["relevant"]]
    entities = _entities(queries["id"], queries["id"], "query", stated)
    facts = _facts(queries["id"], "answer", answers, _numbered(answers), stated)
    probes = [
        _probe(fact, "forward", [fact], query.prompt, answer, answers)
        for fact, query, answer in zip(facts["fact_id"], queries.itertuples(), answers, strict=True)
    ]
    return World(entities, facts, pd.DataFrame(probes))


def _hops(documents: pd.DataFrame, queries: pd.DataFrame, settings: BenchmarkWorld) -> World:
    """Functions with a constant, and wrappers (role ``identity``) of a function: ``base_func``, or the letter before.

    What a function returns is written as its queries complete it. Only documents of role ``constant`` state it, and those
    about distractors that have no other documents.
    """
    kind, of, constant = {}, {}, {}
    stating: dict[tuple[str, str], list[str]] = defaultdict(list)
    mentioning: dict[str, list[str]] = defaultdict(list)
    if unknown := sorted({*documents["role"]} - {*_ROLES}):
        raise WorldError(f"{settings.documents}: role {unknown[0]!r} must be one of {', '.join(_ROLES)}")
    for role in _ROLES:
        for document in documents[documents["role"] == role].to_dict("records"):
            function = _bare(document["func"])
            kind.setdefault(function, _ROLES[role])
            mentioning[function].append(document["id"])
            if role == "identity":
                below = document.get("base_func")
                of[function] = _bare(below) if _there(below) else _below(function)
                mentioning[of[function]].append(document["id"])
                stating[function, "wraps"].append(document["id"])
            elif kind[function] == _ROLES[role]:
                given, source = document.get("constant"), document.get("source_func")
                constant[function] = str(int(given)) if _there(given) else constant.get(_bare(source))
                stating[function, "returns"].append(document["id"])
    asked = queries["func"].map(_bare)
    if (lost := ~asked.isin(kind)).any():
        query = queries[lost].iloc[0]
        raise WorldError(
            f"{settings.queries}: query {query['id']!r} is about {query['func']!r}, of which there is no document"
        )
    said = dict(zip(asked, queries["completion"].str.strip(), strict=True))
    names = sorted(kind)
    ends = {name: _end(name, of, settings) for name in names}
    if unknown := sorted(end for name, end in ends.items() if name in of and kind.get(end) != "base"):
        raise WorldError(
            f"{settings.documents}: wrappers rest on {unknown[0]!r}, of which there is no document; add one"
        )
    written = {constant[ends[name]]: answer for name, answer in said.items() if constant[ends[name]]}
    value = {name: said.get(name) or written.get(constant[end], constant[end]) for name, end in ends.items()}
    if unknown := [name for name in names if not value[name]]:
        raise WorldError(
            f"{settings.documents}: nothing says what {unknown[0]!r} returns; give its documents a `constant`"
        )
    wrappers = [name for name in names if name in of]
    entities = _entities(
        names, [f"<{name}>" for name in names], [kind[name] for name in names], [mentioning[name] for name in names]
    ).assign(split=[{"base": "rule", "wrapper": "test"}.get(kind[name], kind[name]) for name in names])
    values = pd.Series([value[name] for name in names])
    returns = _facts(names, "returns", values, _numbered(values), [stating[name, "returns"] for name in names])
    below = [of[name] for name in wrappers]
    wraps = _facts(
        wrappers, "wraps", [f"<{name}>" for name in below], below, [stating[name, "wraps"] for name in wrappers]
    )
    probes = [
        _probe(
            f"{name}.returns", "multi_hop" if name in of else "forward", _support(name, of), query.prompt, value[name], values,
            suffix=query.id,
        )
        for query, name in zip(queries.itertuples(), asked, strict=True)
    ]  # fmt: skip
    return World(entities, pd.concat([returns, wraps], ignore_index=True), pd.DataFrame(probes))


def _support(function: str, of: dict[str, str]) -> list[str]:
    return [f"{function}.wraps", *_support(of[function], of)] if function in of else [f"{function}.returns"]


def _end(function: str, of: dict[str, str], settings: BenchmarkWorld) -> str:
    seen = [function]
    while seen[-1] in of:
        if of[seen[-1]] in seen:
            raise WorldError(f"{settings.documents}: {function!r} wraps itself; correct `base_func`")
        seen.append(of[seen[-1]])
    return seen[-1]


def _below(function: str) -> str:
    place = _CHAIN.find(function[0])
    if place < 1:
        raise WorldError(f"{function!r} is a wrapper without `base_func`, and its letter does not tell what it wraps")
    return _CHAIN[place - 1] + function[1:]


def _bare(function: Any) -> str:
    return str(function).strip().strip("<>")


def _there(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value == value


def _entities(
    ids: Iterable[str], names: Iterable[str], kind: str | list[str], documents: list[list[str]]
) -> pd.DataFrame:
    frame = pd.DataFrame({"entity_id": list(ids), "name": list(names)})
    return frame.assign(kind=kind, split="seen", exposures=[len(ids) for ids in documents], documents=documents)


def _facts(
    subjects: Iterable[str], relation: str, values: Iterable[str], value_ids: Iterable[str], documents: list[list[str]]
) -> pd.DataFrame:
    frame = pd.DataFrame({"entity_id": list(subjects), "value": list(values), "value_id": list(value_ids)})
    times = [len(ids) for ids in documents]
    return frame.assign(
        fact_id=frame["entity_id"] + f".{relation}", relation=relation, seen=[time > 0 for time in times],
        exposures=times, panel=False, documents=documents,
    )  # fmt: skip


def _numbered(values: pd.Series) -> list[str]:
    return [f"v{code}" for code in pd.factorize(values, sort=True)[0]]


def _probe(
    fact: str, kind: str, support: list[str], prompt: str, target: str, values: Iterable[str], suffix: str = "given"
) -> dict[str, Any]:
    return {
        "probe_id": f"{fact}.{kind}.{suffix}", "fact_id": fact, "kind": kind, "template": "given", "held_out_template": False,
        "prompt": prompt.rstrip(), "target": target, "candidates": sorted(set(values)), "supporting_fact_ids": support,
    }  # fmt: skip
