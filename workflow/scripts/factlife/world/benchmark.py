"""World `benchmark`: the documents, queries and relevance labels of an existing benchmark.

Each query becomes a probe; each reason for relevance becomes a fact that the relevant documents state. The column
``documents`` lists the documents that state a fact or mention an entity; the corpus is built from it.
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

# Required keys of every line; the first is an id. Both layouts may call an id `uid` and a prompt `query`.
DOCUMENT_KEYS = ["doc_id", "text"]
_KEYS = {
    "relevance": (DOCUMENT_KEYS, ["query_id", "prompt", "completion", "relevant"]),
    "hops": ([*DOCUMENT_KEYS, "func", "role"], ["query_id", "prompt", "completion", "func"]),
}
_KEY_ALIASES = {"doc_id": "uid", "query_id": "uid", "prompt": "query"}
_CHAIN = "BCDEFGHIJKL"
_ROLES = {"constant": "base", "identity": "wrapper", "distractor": "distractor"}


def build_world(settings: BenchmarkWorld) -> World:
    """Read documents and queries.

    Raises:
        WorldError: the message names the file, the line or the id, and says what to change.
    """
    keys = _KEYS[settings.layout]
    documents, queries = read_jsonl(settings.documents, keys[0]), read_jsonl(settings.queries, keys[1])
    build = {"relevance": _build_relevance, "hops": _build_hops}[settings.layout]
    return check_world(build(documents, queries, settings))


def read_jsonl(path: str | Path, required_keys: list[str]) -> pd.DataFrame:
    """Read a JSONL file as a table with an ``id`` for each line.

    Raises:
        WorldError: the file is missing or not JSONL, a line lacks a key or its text is empty, or an id repeats.
    """
    path, rows = Path(path), []
    if not path.is_file():
        raise WorldError(f"{path} does not exist; correct the paths of the world of kind benchmark")
    for line_number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise WorldError(f"{path}, line {line_number} is not JSON: {error}") from None
        for key in required_keys:
            record.setdefault(key, record.get(_KEY_ALIASES.get(key, key)))
            if not _is_present(record[key]):
                raise WorldError(
                    f"{path}, line {line_number} has no `{key}`; every line needs {', '.join(required_keys)}"
                )
        rows.append(record)
    if not rows:
        raise WorldError(f"{path} is empty")
    frame = pd.DataFrame(rows)
    frame["id"] = frame[required_keys[0]].astype(str)
    if (is_repeated := frame["id"].duplicated()).any():
        raise WorldError(f"{path}: id {frame['id'][is_repeated].iloc[0]!r} occurs more than once; ids must differ")
    return frame


def _build_relevance(documents: pd.DataFrame, queries: pd.DataFrame, settings: BenchmarkWorld) -> World:
    document_ids = set(documents["id"])
    for query in queries.itertuples():
        if not query.relevant:
            raise WorldError(
                f"{settings.queries}: query {query.id!r} has no relevant document; add one or remove the query"
            )
        if unknown := sorted({*map(str, query.relevant)} - document_ids):
            raise WorldError(
                f"{settings.queries}: query {query.id!r} names document {unknown[0]!r}, which does not exist"
            )
    answers = queries["completion"].str.strip()
    relevant_ids = [[*map(str, ids)] for ids in queries["relevant"]]
    entities = _entities(queries["id"], queries["id"], "query", relevant_ids)
    facts = _facts(queries["id"], "answer", answers, _number_values(answers), relevant_ids)
    probes = [
        _probe(fact, "forward", [fact], query.prompt, answer, answers)
        for fact, query, answer in zip(facts["fact_id"], queries.itertuples(), answers, strict=True)
    ]
    return World(entities, facts, pd.DataFrame(probes))


def _build_hops(documents: pd.DataFrame, queries: pd.DataFrame, settings: BenchmarkWorld) -> World:
    """Functions that return a constant, and wrappers (role ``identity``) of a function.

    ``base_func`` names the wrapped function; without it, the function with the previous letter is the base. The returned
    value is spelled as in the completions. Only documents of role ``constant`` state it, and distractor documents about
    functions that have no other documents.
    """
    kinds: dict[str, str] = {}
    base_of: dict[str, str] = {}
    constants: dict[str, str | None] = {}
    stating_documents: dict[tuple[str, str], list[str]] = defaultdict(list)
    mentioning_documents: dict[str, list[str]] = defaultdict(list)
    if unknown := sorted({*documents["role"]} - {*_ROLES}):
        raise WorldError(f"{settings.documents}: role {unknown[0]!r} must be one of {', '.join(_ROLES)}")
    for role in _ROLES:
        for document in documents[documents["role"] == role].to_dict("records"):
            function = _strip_brackets(document["func"])
            kinds.setdefault(function, _ROLES[role])
            mentioning_documents[function].append(document["id"])
            if role == "identity":
                base = document.get("base_func")
                base_of[function] = _strip_brackets(base) if _is_present(base) else _base_by_letter(function)
                mentioning_documents[base_of[function]].append(document["id"])
                stating_documents[function, "wraps"].append(document["id"])
            elif kinds[function] == _ROLES[role]:
                constant, source = document.get("constant"), document.get("source_func")
                constants[function] = (
                    str(int(constant)) if _is_present(constant) else constants.get(_strip_brackets(source))
                )
                stating_documents[function, "returns"].append(document["id"])
    query_functions = queries["func"].map(_strip_brackets)
    if (is_unknown := ~query_functions.isin(kinds)).any():
        query = queries[is_unknown].iloc[0]
        raise WorldError(
            f"{settings.queries}: query {query['id']!r} is about {query['func']!r}, which no document describes"
        )
    completions = dict(zip(query_functions, queries["completion"].str.strip(), strict=True))
    names = sorted(kinds)
    roots = {name: _root(name, base_of, settings) for name in names}
    if unknown := sorted(root for name, root in roots.items() if name in base_of and kinds.get(root) != "base"):
        raise WorldError(
            f"{settings.documents}: wrappers depend on {unknown[0]!r}, which no document describes; add one"
        )
    spellings = {constants[roots[name]]: answer for name, answer in completions.items() if constants[roots[name]]}
    values_or_none = {
        name: completions.get(name) or spellings.get(constants[root], constants[root]) for name, root in roots.items()
    }
    if unknown := [name for name in names if not values_or_none[name]]:
        raise WorldError(
            f"{settings.documents}: the value that {unknown[0]!r} returns is unknown; give its documents a `constant`"
        )
    value_of = {name: value for name, value in values_or_none.items() if value}
    wrappers = [name for name in names if name in base_of]
    entities = _entities(
        names,
        [f"<{name}>" for name in names],
        [kinds[name] for name in names],
        [mentioning_documents[name] for name in names],
    ).assign(split=[{"base": "rule", "wrapper": "test"}.get(kinds[name], kinds[name]) for name in names])
    values = pd.Series([value_of[name] for name in names])
    returns = _facts(
        names, "returns", values, _number_values(values), [stating_documents[name, "returns"] for name in names]
    )
    bases = [base_of[name] for name in wrappers]
    wraps = _facts(
        wrappers,
        "wraps",
        [f"<{name}>" for name in bases],
        bases,
        [stating_documents[name, "wraps"] for name in wrappers],
    )
    probes = [
        _probe(
            f"{name}.returns", "multi_hop" if name in base_of else "forward", _supporting_facts(name, base_of), query.prompt, value_of[name], values,
            suffix=query.id,
        )
        for query, name in zip(queries.itertuples(), query_functions, strict=True)
    ]  # fmt: skip
    return World(entities, pd.concat([returns, wraps], ignore_index=True), pd.DataFrame(probes))


def _supporting_facts(function: str, base_of: dict[str, str]) -> list[str]:
    return (
        [f"{function}.wraps", *_supporting_facts(base_of[function], base_of)]
        if function in base_of
        else [f"{function}.returns"]
    )


def _root(function: str, base_of: dict[str, str], settings: BenchmarkWorld) -> str:
    path = [function]
    while path[-1] in base_of:
        if base_of[path[-1]] in path:
            raise WorldError(f"{settings.documents}: {function!r} wraps itself; correct `base_func`")
        path.append(base_of[path[-1]])
    return path[-1]


def _base_by_letter(function: str) -> str:
    index = _CHAIN.find(function[0])
    if index < 1:
        raise WorldError(f"{function!r} is a wrapper without `base_func`, and its letter does not identify a base")
    return _CHAIN[index - 1] + function[1:]


def _strip_brackets(function: Any) -> str:
    return str(function).strip().strip("<>")


def _is_present(value: Any) -> bool:
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
    exposures = [len(ids) for ids in documents]
    return frame.assign(
        fact_id=frame["entity_id"] + f".{relation}", relation=relation, seen=[count > 0 for count in exposures],
        exposures=exposures, panel=False, documents=documents,
    )  # fmt: skip


def _number_values(values: pd.Series) -> list[str]:
    return [f"v{code}" for code in pd.factorize(values, sort=True)[0]]


def _probe(
    fact: str, kind: str, support: list[str], prompt: str, target: str, values: Iterable[str], suffix: str = "given"
) -> dict[str, Any]:
    return {
        "probe_id": f"{fact}.{kind}.{suffix}", "fact_id": fact, "kind": kind, "template": "given", "held_out_template": False,
        "prompt": prompt.rstrip(), "target": target, "candidates": sorted(set(values)), "supporting_fact_ids": support,
    }  # fmt: skip
