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
    """Read facts and templates and make probes.

    Documents are rendered from the world alone, so each fact carries its trained templates in the columns ``templates``
    and ``questions``.

    Raises:
        WorldError: naming the file, the line or relation, and what to change.
    """
    rng = random.Random(f"table {settings.seed}")
    rows = _read_facts(Path(settings.facts))
    relations = list(rows["relation"].unique())
    templates = _read_templates(Path(settings.templates), relations)

    subjects = list(rows["subject"].unique())
    ids = dict(zip(subjects, _numbered("e", len(subjects)), strict=True))
    untaught = set(rng.sample(subjects, round(settings.unseen_fraction * len(subjects))))
    taught = [subject for subject in subjects if subject not in untaught]
    panel = set(rng.sample(taught, min(settings.panel, len(taught))))
    entities = pd.DataFrame(
        {
            "entity_id": list(ids.values()),
            "name": subjects,
            "kind": "subject",
            "split": ["unseen" if subject in untaught else "seen" for subject in subjects],
            "exposures": [int(subject not in untaught) for subject in subjects],
        }
    )
    known = ~rows["subject"].isin(untaught)
    facts = pd.DataFrame(
        {
            "fact_id": rows["subject"].map(ids) + "." + rows["relation"],
            "entity_id": rows["subject"].map(ids),
            "relation": rows["relation"],
            "value": rows["object"],
            "value_id": rows["object"].map(_value_ids(rows["object"])),
            "seen": known,
            "exposures": known.astype(int),
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
        if (empty := rows[column] == "").any():
            raise WorldError(
                f"{path}, fact {int(empty.argmax()) + 1}: {column} is empty; fill it in or delete the line"
            )
    if (repeated := rows.duplicated(["subject", "relation"])).any():
        row = rows[repeated].iloc[0]
        raise WorldError(
            f"{path}, fact {int(repeated.argmax()) + 1}: {row['subject']} has a second {row['relation']} "
            f"({row['object']}); a probe needs one true answer, so keep one"
        )
    spellings: dict[str, str] = {}
    for subject in rows["subject"]:
        if (other := spellings.setdefault(subject.casefold(), subject)) != subject:
            raise WorldError(f"{path}: the subjects {other!r} and {subject!r} differ only in case; spell them alike")
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
        read = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WorldError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(read, dict):
        raise WorldError(f"{path} must map each relation to its lists of templates: {', '.join(LISTS)}")
    made = {}
    for relation in relations:
        if relation not in read:
            near = difflib.get_close_matches(relation, map(str, read), n=1)
            hint = f"it has {near[0]!r}, did you mean that?" if near else f"add {relation}: {{train: [...]}}"
            raise WorldError(f"{path} has no templates for the relation {relation!r}; {hint}")
        made[relation] = _lists(read[relation], f"{path}, relation {relation!r}")
    return made


def _lists(read: Any, where: str) -> dict[str, list[Template]]:
    if not isinstance(read, dict):
        raise WorldError(f"{where} must hold lists named {', '.join(LISTS)}")
    for name, texts in read.items():
        if name not in LISTS:
            near = difflib.get_close_matches(str(name), LISTS, n=1)
            raise WorldError(
                f"{where}: {name!r} is none of the lists {', '.join(LISTS)}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise WorldError(
                f"{where}: `{name}` must be a list of sentences; put {{name}} or sentences that hold `: ` in quotes"
            )
    try:
        lists = {
            name: [
                Template(f"{name}{number}", text, name == "held_out") for number, text in enumerate(read.get(name, []))
            ]
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
    if taught := {template.text for template in lists["train"]} & {template.text for template in lists["held_out"]}:
        raise WorldError(f"{where}: {min(taught)!r} is in `train` and in `held_out`; keep one")
    return lists


def _numbered(letter: str, count: int) -> list[str]:
    return [f"{letter}{number:0{max(3, len(str(count - 1)))}d}" for number in range(count)]


def _value_ids(values: pd.Series) -> dict[str, str]:
    distinct = list(values.unique())
    return dict(zip(distinct, _numbered("v", len(distinct)), strict=True))


def _texts(templates: list[Template]) -> list[str]:
    return [template.text for template in templates]


def _probes(
    entities: pd.DataFrame, facts: pd.DataFrame, templates: dict, settings: TableWorld, rng: random.Random
) -> Iterator[dict]:
    name = dict(zip(entities["entity_id"], entities["name"], strict=True))
    rows = {relation: list(group.itertuples()) for relation, group in facts.groupby("relation", sort=False)}
    pools = {relation: {fact.value for fact in group} for relation, group in rows.items()}
    for fact in facts.itertuples():
        lists, subject = templates[fact.relation], name[fact.entity_id]
        candidates = sample_candidates(fact.value, pools[fact.relation], settings.candidates, rng)
        forward = rng.choice(train_templates(lists["train"]))
        if not fact.seen:
            yield make_probe(fact, "unseen", forward, forward.prompt(name=subject), candidates)
            continue
        yield make_probe(fact, "forward", forward, forward.prompt(name=subject), candidates)
        for kind, some in (("paraphrase", held_out_templates(lists["held_out"])), ("question", lists["question"])):
            if some:
                template = rng.choice(some)
                yield make_probe(fact, kind, template, template.prompt(name=subject), candidates)
        others = [other for other in rows[fact.relation] if other.seen and other.fact_id != fact.fact_id]
        if backward := train_templates(lists["train"], forward=False):
            template = rng.choice(backward)
            # Others may share the value: only subjects that do not have it are wrong answers.
            wrong = [name[other.entity_id] for other in others if other.value != fact.value]
            choices = sample_candidates(subject, wrong, settings.candidates, rng)
            yield make_probe(fact, "reverse", template, template.prompt(value=fact.value), choices, target=subject)
        if fact.panel:
            same = [other for other in others if other.value == fact.value]
            for number, other in enumerate(rng.sample(same, min(settings.neighbours, len(same)))):
                yield make_probe(
                    fact,
                    "neighbourhood",
                    forward,
                    forward.prompt(name=name[other.entity_id]),
                    candidates,
                    suffix=f"{forward.id}-{number}",
                    supporting_fact_ids=[other.fact_id],
                )
