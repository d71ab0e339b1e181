"""World `table`: the user's own facts, from a CSV of subject, relation and object and a YAML of templates."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from factlife.config.worlds import TableWorld
from factlife.world.tables import World, WorldError, check_world
from factlife.world.templates import Template, held_out_templates, make_probe, sample_candidates, train_templates

COLUMNS = ["subject", "relation", "object"]
LISTS = ["train", "held_out", "question"]


def build_world(settings: TableWorld) -> World:
    """Read facts and templates and generate probes.

    Documents are rendered from the world alone, so the columns ``templates`` and ``questions`` hold the training templates
    of each fact.

    Raises:
        WorldError: the message names the file, the line or relation, and says what to change.
    """
    rng = random.Random(f"table {settings.seed}")
    rows = _read_facts(Path(settings.facts))
    relations = list(rows["relation"].unique())
    templates = _read_templates(Path(settings.templates), relations)

    subjects = list(rows["subject"].unique())
    ids = dict(zip(subjects, _numbered_ids("e", len(subjects)), strict=True))
    unseen = set(rng.sample(subjects, round(settings.unseen_fraction * len(subjects))))
    seen_subjects = [subject for subject in subjects if subject not in unseen]
    panel = set(rng.sample(seen_subjects, min(settings.panel, len(seen_subjects))))
    entities = pd.DataFrame(
        {
            "entity_id": list(ids.values()),
            "name": subjects,
            "kind": "subject",
            "split": ["unseen" if subject in unseen else "seen" for subject in subjects],
            "exposures": [int(subject not in unseen) for subject in subjects],
        }
    )
    is_seen = ~rows["subject"].isin(unseen)
    facts = pd.DataFrame(
        {
            "fact_id": rows["subject"].map(ids) + "." + rows["relation"],
            "entity_id": rows["subject"].map(ids),
            "relation": rows["relation"],
            "value": rows["object"],
            "value_id": rows["object"].map(_value_ids(rows["object"])),
            "seen": is_seen,
            "exposures": is_seen.astype(int),
            "panel": rows["subject"].isin(panel),
            "templates": rows["relation"].map(lambda relation: _texts(templates[relation]["train"])),
            "questions": rows["relation"].map(lambda relation: _texts(templates[relation]["question"])),
        }
    )
    probes = pd.DataFrame(_probes(entities, facts, templates, settings, rng))
    return check_world(World(entities, facts, probes))


def _read_facts(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise WorldError(
            f"{path} does not exist; set the world's `facts` to a CSV with the columns {', '.join(COLUMNS)}"
        )
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise WorldError(f"{path} cannot be read as CSV in UTF-8: {str(error).strip()}") from None
    rows.columns = rows.columns.str.strip()
    for column in COLUMNS:
        if column not in rows.columns:
            raise WorldError(
                f"{path} has no column `{column}`, but {', '.join(rows.columns)}; its first line must name "
                f"{', '.join(COLUMNS)}"
            )
    if rows.empty:
        raise WorldError(f"{path} has no facts below its first line; add some")
    rows = rows[COLUMNS].apply(lambda column: column.str.split().str.join(" "))
    for column in COLUMNS:
        if (is_empty := rows[column] == "").any():
            raise WorldError(
                f"{path}, fact {int(is_empty.argmax()) + 1}: {column} is empty; fill it in or delete the line"
            )
    if (is_repeated := rows.duplicated(["subject", "relation"])).any():
        row = rows[is_repeated].iloc[0]
        raise WorldError(
            f"{path}, fact {int(is_repeated.argmax()) + 1}: {row['subject']} has a second {row['relation']} "
            f"({row['object']}); a probe needs a single true answer, so keep one"
        )
    spellings: dict[str, str] = {}
    for subject in rows["subject"]:
        if (first_spelling := spellings.setdefault(subject.casefold(), subject)) != subject:
            raise WorldError(
                f"{path}: the subjects {first_spelling!r} and {subject!r} differ only in case; use one spelling"
            )
    for relation in rows["relation"].unique():
        if not re.fullmatch(r"[\w-]+", relation, re.ASCII):
            raise WorldError(
                f"{path}: relation {relation!r} becomes part of file names; use only letters, digits, _ and -"
            )
    return rows


def _read_templates(path: Path, relations: list[str]) -> dict[str, dict[str, list[Template]]]:
    """Templates of each relation, by list."""
    if not path.is_file():
        raise WorldError(
            f"{path} does not exist; set the world's `templates` to a YAML with templates of {', '.join(relations)}"
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorldError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise WorldError(f"{path} must map each relation to its lists of templates: {', '.join(LISTS)}")
    templates = {}
    for relation in relations:
        if relation not in raw:
            close_matches = difflib.get_close_matches(relation, map(str, raw), n=1)
            hint = (
                f"it has {close_matches[0]!r}, did you mean that?"
                if close_matches
                else f"add {relation}: {{train: [...]}}"
            )
            raise WorldError(f"{path} has no templates for the relation {relation!r}; {hint}")
        templates[relation] = _parse_lists(raw[relation], f"{path}, relation {relation!r}")
    return templates


def _parse_lists(raw: Any, where: str) -> dict[str, list[Template]]:
    if not isinstance(raw, dict):
        raise WorldError(f"{where} must hold lists named {', '.join(LISTS)}")
    for name, texts in raw.items():
        if name not in LISTS:
            close_matches = difflib.get_close_matches(str(name), LISTS, n=1)
            raise WorldError(
                f"{where}: {name!r} is none of the lists {', '.join(LISTS)}"
                + (f"; did you mean {close_matches[0]!r}?" if close_matches else "")
            )
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise WorldError(
                f"{where}: `{name}` must be a list of sentences; put {{name}} or sentences that hold `: ` in quotes"
            )
    try:
        lists = {
            name: [Template(f"{name}{index}", text, name == "held_out") for index, text in enumerate(raw.get(name, []))]
            for name in LISTS
        }
    except WorldError as error:
        raise WorldError(f"{where}: {error}") from None
    if not train_templates(lists["train"]):
        raise WorldError(f"{where}: `train` must have a template with {{name}} before {{value}}; add one")
    for template in [*lists["held_out"], *lists["question"]]:
        if not template.forward:
            raise WorldError(
                f"{where}: template {template.id!r} ({template.text!r}) must have {{name}} before {{value}}"
            )
    if duplicates := {template.text for template in lists["train"]} & {template.text for template in lists["held_out"]}:
        raise WorldError(f"{where}: {min(duplicates)!r} is in `train` and in `held_out`; keep one")
    return lists


def _numbered_ids(letter: str, count: int) -> list[str]:
    return [f"{letter}{index:0{max(3, len(str(count - 1)))}d}" for index in range(count)]


def _value_ids(values: pd.Series) -> dict[str, str]:
    values_ = list(values.unique())
    return dict(zip(values_, _numbered_ids("v", len(values_)), strict=True))


def _texts(templates: list[Template]) -> list[str]:
    return [template.text for template in templates]


def _probes(
    entities: pd.DataFrame, facts: pd.DataFrame, templates: dict, settings: TableWorld, rng: random.Random
) -> Iterator[dict]:
    names = dict(zip(entities["entity_id"], entities["name"], strict=True))
    rows = {relation: list(group.itertuples()) for relation, group in facts.groupby("relation", sort=False)}
    pools = {relation: {fact.value for fact in group} for relation, group in rows.items()}
    for fact in facts.itertuples():
        lists, subject = templates[fact.relation], names[fact.entity_id]
        candidates = sample_candidates(fact.value, pools[fact.relation], settings.candidates, rng)
        forward = rng.choice(train_templates(lists["train"]))
        if not fact.seen:
            yield make_probe(fact, "unseen", forward, forward.prompt(name=subject), candidates)
            continue
        yield make_probe(fact, "forward", forward, forward.prompt(name=subject), candidates)
        for kind, templates_ in (
            ("paraphrase", held_out_templates(lists["held_out"])),
            ("question", lists["question"]),
        ):
            if templates_:
                template = rng.choice(templates_)
                yield make_probe(fact, kind, template, template.prompt(name=subject), candidates)
        other_facts = [row for row in rows[fact.relation] if row.seen and row.fact_id != fact.fact_id]
        if reverse_templates := train_templates(lists["train"], forward=False):
            template = rng.choice(reverse_templates)
            # Several subjects may share the value; only subjects without it are wrong answers.
            wrong_names = [names[other_fact.entity_id] for other_fact in other_facts if other_fact.value != fact.value]
            name_candidates = sample_candidates(subject, wrong_names, settings.candidates, rng)
            yield make_probe(
                fact, "reverse", template, template.prompt(value=fact.value), name_candidates, target=subject
            )
        if fact.panel:
            neighbours = [other_fact for other_fact in other_facts if other_fact.value == fact.value]
            for index, neighbour in enumerate(rng.sample(neighbours, min(settings.neighbours, len(neighbours)))):
                yield make_probe(
                    fact,
                    "neighbourhood",
                    forward,
                    forward.prompt(name=names[neighbour.entity_id]),
                    candidates,
                    suffix=f"{forward.id}-{index}",
                    supporting_fact_ids=[neighbour.fact_id],
                )
