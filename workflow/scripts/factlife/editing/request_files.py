"""Requests from files in public layouts: CounterFact (original, multi, EasyEdit's), zsRE and WikiBigEdit."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Record = Mapping[str, Any]


@dataclass
class EditCase:
    """A request of any layout.

    Attributes:
        subject: as written in the prompt.
        relation: what the request changes about the subject; two requests with the same subject and relation conflict.
        prompt: the text before the new value.
        target_new: the new value.
        target_true: the old value; empty if the layout does not give it.
        probes: metric, prompt and target of probes other than the prompt itself.
        generation_prompts: beginnings of generated texts, for fluency and consistency.
        target_id: id of the new value, by which attribute snippets are filed.
    """

    subject: str
    relation: str
    prompt: str
    target_new: str
    target_true: str = ""
    probes: list[tuple[str, str, str]] = field(default_factory=list)
    generation_prompts: list[str] = field(default_factory=list)
    target_id: str = ""


def select_requests(
    settings: EditRequests,
    tokenizer: PreTrainedTokenizerBase,
    *,
    world: World | None = None,
    recalled: set[str] | None = None,
    path: str | None = None,
    attribute_snippets: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Validated requests and the probes of the usable ones, from a world or from a file.

    Args:
        settings: the source.
        tokenizer: of the model to edit.
        world: of that model; None for requests from a file.
        recalled: ids of the probes that the model answers; None for no restriction.
        path: the file, for requests from a file.
        attribute_snippets: CounterFact's ``attribute_snippets.json``.
    """
    if settings.kind == "world":
        if world is None:
            raise EditError("requests of kind `world` need a world; pass one")
        requests = validate_requests(requests_from_world(world, settings, recalled), tokenizer)
        return requests, probes_from_world(requests, world, recalled)
    if path is None:
        raise EditError(f"requests of kind `{settings.kind}` need a file; pass its path")
    requests, probes = read_request_file(settings, path, attribute_snippets)
    requests = validate_requests(requests, tokenizer)
    usable = set(requests["edit_id"][requests["dropped"] == ""])
    return requests, probes[probes["edit_id"].isin(usable)].reset_index(drop=True)


def read_request_file(
    settings: EditRequests, path: str | Path, attribute_snippets: str | Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Requests and their probes from a file.

    Args:
        settings: the layout; the first ``count`` requests are taken.
        path: a JSON list, JSON lines or Parquet.
        attribute_snippets: CounterFact's ``attribute_snippets.json``, texts by relation and new value, for consistency.

    Returns:
        As ``requests.requests_from_world`` and ``requests.probes_from_world``; ``dropped`` is empty. If a neighbour's prompt
        is that of another request, the probe has the ``fact_id`` of that request, so that it can be left out when both are
        edited.

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
        logging.warning("%s has only %d of the %d requests in the config", path, len(cases), settings.count)
    groups = json.loads(Path(attribute_snippets).read_text()) if attribute_snippets else []
    texts = {
        (group["relation_id"], target_id): [sample["text"] for sample in samples]
        for group in groups
        for target_id, samples in group["samples"].items()
    }
    subjects = pd.factorize(pd.Series([case.subject for case in cases], dtype=object))[0]
    ids = [f"s{subject}.{i}" for i, subject in enumerate(subjects)]
    rows: list[tuple[object, ...]] = []
    for i, (case, edit_id) in enumerate(zip(cases, ids, strict=True)):
        related = [j for j in range(len(cases)) if subjects[j] == subjects[i] and j != i]
        rows.append((
            edit_id, edit_id, edit_id.partition(".")[0], case.relation, case.subject, case.prompt, case.target_new,
            case.target_true, [ids[j] for j in related], [cases[j].prompt for j in related], case.generation_prompts, [],
            texts.get((case.relation, case.target_id), []), "",
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(_probes(cases, ids), columns=PROBE_COLUMNS)


def download_requests(settings: EditRequests, path: str | Path) -> None:
    """Download a hub dataset, at its pinned revision, into a Parquet file.

    Raises:
        EditError: the download fails.
    """
    import datasets

    try:
        rows = datasets.load_dataset(settings.dataset, split=settings.split, revision=settings.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise EditError(
            f"the dataset {settings.dataset!r} (split {settings.split!r}, revision {settings.revision!r}) cannot be "
            f"downloaded from the hub: {error}\n  check the names; without a network, set `path` instead"
        ) from error
    rows.to_parquet(str(path))


def _records(path: str | Path) -> list[Record]:
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).to_dict("records")
        text = path.read_text()
        records = (
            json.loads(text) if text.lstrip()[:1] == "[" else [json.loads(line) for line in text.splitlines() if line]
        )
    except (OSError, ValueError) as error:
        raise EditError(f"{path} cannot be read as a JSON list, JSON lines or Parquet: {error}") from None
    if not records or not isinstance(records[0], dict):
        raise EditError(f"{path} holds no records; it must be a list of requests")
    return records


def _probes(cases: Sequence[EditCase], ids: Sequence[str]) -> Iterator[tuple]:
    id_of_prompt = {case.prompt: edit_id for case, edit_id in zip(cases, ids, strict=True)}
    for case, edit_id in zip(cases, ids, strict=True):
        new, old = case.target_new, case.target_true
        yield f"{edit_id}.efficacy", edit_id, "efficacy", edit_id, case.prompt, new, old
        for i, (metric, prompt, target) in enumerate(case.probes):
            fact_id = id_of_prompt.get(prompt, edit_id) if metric == "neighbourhood" else edit_id
            alternative = old if target == new else new if target == old else ""
            yield f"{edit_id}.{metric}.{i}", edit_id, metric, fact_id, prompt, target, alternative
            if metric == "neighbourhood":
                distractor = f"{case.prompt} {new}. {prompt}"
                yield f"{edit_id}.distractor.{i}", edit_id, "distractor", fact_id, distractor, target, alternative


def _counterfact(record: Record, settings: EditRequests) -> Iterator[EditCase]:
    """CounterFact (Meng et al. 2022), and its multi form, in which a record may hold several rewrites."""
    rewrites = record["requested_rewrite"]
    for rewrite in [rewrites] if isinstance(rewrites, Mapping) else rewrites:
        new, old = rewrite["target_new"]["str"].strip(), rewrite["target_true"]["str"].strip()
        probes = [("paraphrase", prompt, new) for prompt in record["paraphrase_prompts"]]
        for neighbour in record["neighborhood_prompts"]:
            # Some copies give every neighbour its own answer.
            has_target = isinstance(neighbour, Mapping)
            prompt, target = (neighbour["prompt"], neighbour["target"]) if has_target else (neighbour, old)
            probes.append(("neighbourhood", prompt, target.strip()))
        yield EditCase(
            rewrite["subject"],
            rewrite["relation_id"],
            rewrite["prompt"].replace("{}", rewrite["subject"]),
            new,
            old,
            probes,
            list(record.get("generation_prompts", ())),
            rewrite["target_new"].get("id", ""),
        )


def _easyedit(record: Record, settings: EditRequests) -> Iterator[EditCase]:
    """EasyEdit's form of CounterFact: one paraphrase, one neighbour; the prompt without its subject is the relation."""
    new, old, subject = record["target_new"].strip(), record["ground_truth"].strip(), record["subject"]
    probes = [
        ("paraphrase", record["rephrase_prompt"], new),
        ("neighbourhood", record["locality_prompt"], record["locality_ground_truth"].strip()),
    ]
    yield EditCase(subject, record["prompt"].replace(subject, "{}"), record["prompt"], new, old, probes, [subject])


def _zsre(record: Record, settings: EditRequests) -> Iterator[EditCase]:
    """ZsRE as filtered by MEND (Mitchell et al. 2022): questions; the new value is the true answer or ``alt``."""
    true = record["answers"][0].strip()
    new, old = (record["alt"].strip(), true) if settings.zsre_target == "alt" else (true, "")
    # The question mark is MEMIT's; the published question has none.
    neighbour = record["loc"].rstrip("?") + "?"
    probes = [("paraphrase", record["rephrase"], new), ("neighbourhood", neighbour, record["loc_ans"].strip())]
    subject = record["subject"]
    yield EditCase(subject, record["src"].replace(subject, "{}"), record["src"], new, old, probes, [subject])


def _wikibigedit(record: Record, settings: EditRequests) -> Iterator[EditCase]:
    """WikiBigEdit (Thede et al. 2025): questions about changes in Wikidata; all fields but the first two may be missing."""
    subject, new = record["subject"], record["ans"].strip()
    columns = {
        "paraphrase": ("rephrase", new),
        "persona": ("personas", new),
        "neighbourhood": ("loc", record.get("loc_ans")),
        "multi_hop": ("mhop", record.get("mhop_ans")),
    }
    probes = [
        (metric, record[column], target.strip())
        for metric, (column, target) in columns.items()
        if isinstance(record.get(column), str) and isinstance(target, str)
    ]
    yield EditCase(subject, record["update"].replace(subject, "{}"), record["update"], new, "", probes, [subject])


_LAYOUTS: dict[str, Callable[[Record, EditRequests], Iterator[EditCase]]] = {
    "counterfact": _counterfact,
    "multi-counterfact": _counterfact,
    "easyedit": _easyedit,
    "zsre": _zsre,
    "wikibigedit": _wikibigedit,
}
