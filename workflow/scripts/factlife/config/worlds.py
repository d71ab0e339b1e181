"""Worlds: the entities, facts and probes that everything else is about."""

from __future__ import annotations

import csv
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Section, key
from factlife.config.imports import importable

Relation = Literal["birth_date", "birth_city", "university", "major", "employer", "working_city"]
CountryRelation = Literal["capital", "currency", "language", "continent", "demonym"]


class PieceNames(Section):
    """Names are ordered combinations of pieces from one list, so only the combination identifies a person."""

    style: Literal["pieces"] = key(..., "How names are formed.")
    choices: list[Count] = key(
        [10, 10, 10],
        "Pieces to choose from at each place in the name; their product is the number of possible names.",
        min_length=1,
    )


class OrdinaryNames(Section):
    """A first and a last name, each from its own list."""

    style: Literal["ordinary"] = key(..., "How names are formed.")
    middle: bool = key(False, "Add a middle name from a third list.")
    people_per_first_name: Count = key(1, "Number of people who share a first name.")
    people_per_last_name: Count = key(1, "Number of people who share a last name.")


class Levels(Section):
    """Equal groups of people, each with its own relative frequency in the corpus."""

    kind: Literal["levels"] = key(..., "How often the facts of each entity are stated.")
    levels: list[Count] = key(
        [1], "Relative frequency of each group; people are assigned to groups in turn.", min_length=1
    )


class Zipf(Section):
    """Frequency falls with rank as a power law."""

    renamed: ClassVar[dict[str, str]] = {"rarest": "min_exposures"}

    kind: Literal["zipf"] = key(..., "How often the facts of each entity are stated.")
    exponent: float = key(0.8, "Exponent a: the frequency of rank r is proportional to r to the power -a.", ge=0)
    min_exposures: Count = key(1, "Relative frequency of the rarest person.")


class PeopleWorld(Section):
    """Invented people with up to six relations; the values of each relation are assigned independently."""

    renamed: ClassVar[dict[str, str]] = {"untaught": "unseen", "asked": "qa_fraction", "late": "new_fraction"}

    kind: Literal["people"] = key(..., "Kind of world.")
    people: Count = key(200, "People whose facts appear in documents.")
    unseen: int = key(40, "People who appear in no document, as a control: a model can only invent their facts.", ge=0)
    relations: list[Relation] = key(
        ["birth_date", "birth_city", "university", "major", "employer", "working_city"], "Relations.", min_length=1
    )
    values: Count | dict[Relation, Count] = key(
        50, "Number of distinct values: one number for all relations, or one for each."
    )
    regions: int = key(8, "Regions that contain the birth cities, for two-hop probes; 0 for none.", ge=0)
    names: PieceNames | OrdinaryNames = key(PieceNames(style="pieces"), "How names are formed.", discriminator="style")
    exposures: Levels | Zipf = key(
        Levels(kind="levels", levels=[1]), "How often the facts of each person are stated.", discriminator="kind"
    )
    qa_fraction: float = key(
        0.5, "Fraction of seen people whose questions and answers corpora may contain (split `qa_train`).", ge=0, le=1
    )
    new_fraction: float = key(
        0.0, "Fraction of seen people who count as new; corpora select them with `about: new`.", ge=0, le=1
    )
    panel: int = key(20, "People whose facts go through every stage.", ge=0)
    neighbours: int = key(5, "Neighbourhood probes for each panel fact, about other people with the same value.", ge=0)
    seed: int = key(0, "Seed.", ge=0)


class FunctionsWorld(Section):
    """Functions that return a constant, and chains of functions that wrap them."""

    renamed: ClassVar[dict[str, str]] = {"rule_share": "rule_fraction"}

    kind: Literal["functions"] = key(..., "Kind of world.")
    values: Count = key(10, "Distinct numbers that functions return.")
    families_per_value: Annotated[int, Field(ge=2)] = key(
        5, "Families (a base function and its wrappers) that return the same number."
    )
    depth: int = key(1, "Wrappers above each base function: `<C01>` wraps `<B01>`, `<D01>` wraps `<C01>`.", ge=0, le=10)
    rule_fraction: float = key(
        0.6,
        "Fraction of families whose wrappers' numbers are stated too; the other families test composition.",
        ge=0,
        le=1,
    )
    aliases: int = key(10, "Base functions with a second name; documents about the two names share no words.", ge=0)
    distractors: int = key(10, "Functions outside every family, with documents like those of a base function.", ge=0)
    inputs: Annotated[int, Field(ge=1, le=100)] = key(
        3, "Inputs in the probes of each function; they appear in no document."
    )
    number_tokens: bool = key(True, "Write numbers as single new tokens such as `<V07>` instead of digits.")
    seed: int = key(0, "Seed.", ge=0)


class TableWorld(Section):
    """The user's own facts."""

    renamed: ClassVar[dict[str, str]] = {"untaught": "unseen_fraction"}

    kind: Literal["table"] = key(..., "Kind of world.")
    facts: str = key(..., "CSV file with the columns subject, relation and object.")
    templates: str = key(..., "YAML file with lists of `train`, `held_out` and `question` templates for each relation.")
    unseen_fraction: float = key(0.0, "Fraction of subjects that appear in no document.", ge=0, le=1)
    panel: int = key(20, "Maximum number of subjects whose facts go through every stage.", ge=0)
    neighbours: int = key(
        5, "Neighbourhood probes for each panel fact, about other subjects with the same value.", ge=0
    )
    candidates: Count = key(50, "Maximum number of candidate values in a probe.")
    seed: int = key(0, "Seed.", ge=0)


class CountriesWorld(Section):
    """Real facts about countries, for pretrained models."""

    kind: Literal["countries"] = key(..., "Kind of world.")
    relations: list[CountryRelation] = key(
        ["capital", "currency", "language", "continent", "demonym"], "Relations.", min_length=1
    )
    panel: int = key(20, "Countries whose facts go through every stage.", ge=0)
    neighbours: int = key(3, "Neighbourhood probes for each panel fact, about other countries.", ge=0)
    candidates: Count = key(20, "Maximum number of candidate values in a probe.")
    seed: int = key(0, "Seed.", ge=0)


class BenchmarkWorld(Section):
    """Documents, queries and relevance labels of an influence benchmark; see docs/influence.md."""

    kind: Literal["benchmark"] = key(..., "Kind of world.")
    layout: Literal["relevance", "hops"] = key(
        "relevance",
        "`relevance`: each query lists its relevant documents; `hops`: the layout of influence-benchmarking-hops.",
    )
    documents: str = key(..., "JSONL file of documents.")
    queries: str = key(..., "JSONL file of queries.")


class CustomWorld(Section):
    """Base class of a world of your own: settings, and a method that builds it."""

    kind: str = key(..., "Import path of the class, `package.module:Class`.")

    def build(self) -> Any:
        """The entities, facts and probes, as a ``factlife.world.World``."""
        raise NotImplementedError

    def relation_names(self) -> list[str]:
        """Names of the relations, which the stages `circuits` and `influence` select from."""
        raise NotImplementedError


World = Annotated[
    PeopleWorld | FunctionsWorld | TableWorld | CountriesWorld | BenchmarkWorld,
    Field(discriminator="kind"),
    importable(CustomWorld),
]


def world_relations(world: World) -> list[str]:
    """Names of a world's relations. Those of a table come from its file; none where the file cannot be read."""
    if isinstance(world, (PeopleWorld, CountriesWorld)):
        return [*world.relations]
    if isinstance(world, CustomWorld):
        return world.relation_names()
    if isinstance(world, TableWorld):
        try:
            with open(world.facts, encoding="utf-8-sig", newline="") as file:
                return list(dict.fromkeys(row["relation"] for row in csv.DictReader(file)))
        except (OSError, KeyError, UnicodeDecodeError, csv.Error):
            return []  # The world's rule names the fault.
    return ["returns"]
