"""Requests from the public layouts: CounterFact (original, multi, EasyEdit's), zsRE and WikiBigEdit."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from factlife.config.editing import EditRequests
from factlife.editing.requests import (
    COLUMNS,
    PROBE_COLUMNS,
    EditError,
    probes_from_world,
    requests_from_world,
    validate_requests,
)
from factlife.world import World

Record = Mapping[str, Any]


@dataclass
class EditCase:
    """A request of any layout.

    Attributes:
        subject: as it stands in the prompt.
        relation: what is asked about it; two requests with one subject and relation contradict each other.
        prompt: that the new value follows.
        new: the new value.
        old: the value that it replaces; empty where the layout does not tell.
        asked: metric, prompt and wanted answer of questions whose right answer is not the new value, or is by another
            prompt.
        texts: beginnings of texts for fluency and consistency.
        target: id of the new value, by which attribute snippets are filed.
    """

    subject: str
    relation: str
    prompt: str
    new: str
    old: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    target: str = ""


def select_requests(
    settings: EditRequests,
    tokenizer: Any,
    *,
    world: World,
    recalled: set[str] | None = None,
    path: str | None = None,
    attribute_snippets: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Validated requests, and what is asked about those that can be used, from a world or from a file.

    Args:
        settings: where they come from.
        tokenizer: of the model that is to be edited.
        world: of that model.
        recalled: see ``requests.from_world``.
        path: the file, where they come from one.
        attribute_snippets: see ``read``.
    """
    if settings.kind == "world":
        requests = validate_requests(requests_from_world(world, settings, recalled), tokenizer)
        return requests, probes_from_world(requests, world, recalled)
    requests, probes = read_request_file(settings, path, attribute_snippets)
    requests = validate_requests(requests, tokenizer)
    used = set(requests["edit_id"][requests["dropped"] == ""])
    return requests, probes[probes["edit_id"].isin(used)].reset_index(drop=True)


def read_request_file(
    settings: EditRequests, path: str | Path, attribute_snippets: str | Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Requests and what is asked about them, from a file.

    Args:
        settings: names the layout; of the records, the first ``count`` are taken.
        path: a JSON list, JSON lines or Parquet.
        attribute_snippets: CounterFact's ``attribute_snippets.json``, texts by relation and new value, for consistency.

    Returns:
        As ``requests.from_world`` and ``requests.probes_of_world``; ``dropped`` is empty. A neighbour whose prompt is that of
        another request is ``about`` it, so that it is left out where that one is written too.

    Raises:
        EditError: the file cannot be read, or its records have another layout.
    """
    try:
        cases = [
            case for record in _records(path)[: settings.count] for case in _LAYOUTS[settings.kind](record, settings)
        ]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise EditError(
            f"{path} does not have the layout {settings.kind}: a record lacks {error}; change `requests.kind`"
        ) from None
    cases = cases[: settings.count]
    if len(cases) < settings.count:
        logging.warning("%s has only %d of the %d requests that are asked for", path, len(cases), settings.count)
    known = json.loads(Path(attribute_snippets).read_text()) if attribute_snippets else []
    texts = {
        (group["relation_id"], target): [one["text"] for one in found]
        for group in known
        for target, found in group["samples"].items()
    }
    people = pd.factorize(pd.Series([case.subject for case in cases], dtype=object))[0]
    ids = [f"s{person}.{number}" for number, person in enumerate(people)]
    rows = []
    for number, (case, edit) in enumerate(zip(cases, ids, strict=True)):
        others = [other for other in range(len(cases)) if people[other] == people[number] and other != number]
        rows.append((
            edit, edit, edit.partition(".")[0], case.relation, case.subject, case.prompt, case.new, case.old,
            [ids[other] for other in others], [cases[other].prompt for other in others], case.texts, [],
            texts.get((case.relation, case.target), []), "",
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(_probes(cases, ids), columns=PROBE_COLUMNS)


def download_requests(settings: EditRequests, path: str | Path) -> None:
    """Fetch a hub dataset, at its pinned revision, into a Parquet file.

    Raises:
        EditError: it cannot be had.
    """
    import datasets

    try:
        rows = datasets.load_dataset(settings.dataset, split=settings.split, revision=settings.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise EditError(
            f"the dataset {settings.dataset!r} (split {settings.split!r}, revision {settings.revision!r}) cannot be "
            f"had from the hub: {error}\n  check the names; where there is no network, give `path` instead"
        ) from error
    rows.to_parquet(str(path))


def _records(path: str | Path) -> list[Record]:
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).to_dict("records")
        text = path.read_text()
        found = (
            json.loads(text) if text.lstrip()[:1] == "[" else [json.loads(line) for line in text.splitlines() if line]
        )
    except (OSError, ValueError) as error:
        raise EditError(f"{path} cannot be read as a JSON list, JSON lines or Parquet: {error}") from None
    if not found or not isinstance(found[0], dict):
        raise EditError(f"{path} holds no records; give a list of requests")
    return found


def _probes(cases: Sequence[EditCase], ids: Sequence[str]) -> Iterator[tuple]:
    owner = {case.prompt: edit for case, edit in zip(cases, ids, strict=True)}
    for case, edit in zip(cases, ids, strict=True):
        yield f"{edit}.efficacy", edit, "efficacy", edit, case.prompt, case.new, case.old
        for number, (metric, prompt, wanted) in enumerate(case.asked):
            about = owner.get(prompt, edit) if metric == "neighbourhood" else edit
            other = case.old if wanted == case.new else case.new if wanted == case.old else ""
            yield f"{edit}.{metric}.{number}", edit, metric, about, prompt, wanted, other
            if metric == "neighbourhood":
                said = f"{case.prompt} {case.new}. {prompt}"
                yield f"{edit}.distractor.{number}", edit, "distractor", about, said, wanted, other


def _counterfact(record: Record, settings: EditRequests) -> Iterator[EditCase]:
    """CounterFact (Meng et al. 2022), and its multi form, in which a record may hold several rewrites."""
    rewrites = record["requested_rewrite"]
    for rewrite in [rewrites] if isinstance(rewrites, Mapping) else rewrites:
        new, old = rewrite["target_new"]["str"].strip(), rewrite["target_true"]["str"].strip()
        asked = [("paraphrase", prompt, new) for prompt in record["paraphrase_prompts"]]
        for near in record["neighborhood_prompts"]:
            # Some copies give every neighbour its own answer.
            prompt, wanted = (near["prompt"], near["target"]) if isinstance(near, Mapping) else (near, old)
            asked.append(("neighbourhood", prompt, wanted.strip()))
        prompt = rewrite["prompt"].replace("{}", rewrite["subject"])
        texts = list(record.get("generation_prompts", ()))
        yield EditCase(
            rewrite["subject"],
            rewrite["relation_id"],
            prompt,
            new,
            old,
            asked,
            texts,
            rewrite["target_new"].get("id", ""),
        )


def _easyedit(record: Record, settings: EditRequests) -> Iterator[EditCase]:
    """EasyEdit's form of CounterFact: one paraphrase, one neighbour; the prompt without its subject is the relation."""
    new, old, subject = record["target_new"].strip(), record["ground_truth"].strip(), record["subject"]
    asked = [
        ("paraphrase", record["rephrase_prompt"], new),
        ("neighbourhood", record["locality_prompt"], record["locality_ground_truth"].strip()),
    ]
    yield EditCase(subject, record["prompt"].replace(subject, "{}"), record["prompt"], new, old, asked, [subject])


def _zsre(record: Record, settings: EditRequests) -> Iterator[EditCase]:
    """ZsRE as MEND filtered it (Mitchell et al. 2022): questions; the value is the true answer or ``alt``."""
    true = record["answers"][0].strip()
    new, old = (record["alt"].strip(), true) if settings.zsre_target == "alt" else (true, "")
    # As MEMIT asks it: the published question has no question mark.
    near = record["loc"].rstrip("?") + "?"
    asked = [("paraphrase", record["rephrase"], new), ("neighbourhood", near, record["loc_ans"].strip())]
    subject = record["subject"]
    yield EditCase(subject, record["src"].replace(subject, "{}"), record["src"], new, old, asked, [subject])


def _wikibigedit(record: Record, settings: EditRequests) -> Iterator[EditCase]:
    """WikiBigEdit (Thede et al. 2025): questions about what changed in Wikidata; all but the first two may be missing."""
    subject, new = record["subject"], record["ans"].strip()
    others = {
        "paraphrase": ("rephrase", new),
        "persona": ("personas", new),
        "neighbourhood": ("loc", record.get("loc_ans")),
        "multi_hop": ("mhop", record.get("mhop_ans")),
    }
    asked = [
        (metric, record[column], wanted.strip())
        for metric, (column, wanted) in others.items()
        if isinstance(record.get(column), str) and isinstance(wanted, str)
    ]
    yield EditCase(subject, record["update"].replace(subject, "{}"), record["update"], new, "", asked, [subject])


_LAYOUTS: dict[str, Callable[[Record, EditRequests], Iterator[EditCase]]] = {
    "counterfact": _counterfact,
    "multi-counterfact": _counterfact,
    "easyedit": _easyedit,
    "zsre": _zsre,
    "wikibigedit": _wikibigedit,
}
