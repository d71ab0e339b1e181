"""Worlds: which entities, facts and questions there are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Section, key

Relation = Literal["birth_date", "birth_city", "university", "major", "employer", "working_city"]
CountryRelation = Literal["capital", "currency", "language", "continent", "demonym"]


class PieceNames(Section):
    """A name is an ordered choice of pieces from one list, so that only their combination tells who is meant."""

    style: Literal["pieces"] = key(..., "How names are made.")
    choices: list[Count] = key(
        [10, 10, 10], "How many of the shared list's pieces may stand at each place; their product is how many names there are.",
        min_length=1,
    )  # fmt: skip


class OrdinaryNames(Section):
    """A first and a last name, each from a list of its own."""

    style: Literal["ordinary"] = key(..., "How names are made.")
    middle: bool = key(False, "Put a middle name, from a third list, between first and last name.")
    people_per_first_name: Count = key(1, "How many people share a first name.")
    people_per_last_name: Count = key(1, "How many people share a last name.")


class Levels(Section):
    """Equal groups of people, each stated a whole multiple of times."""

    kind: Literal["levels"] = key(..., "How often entities are stated.")
    levels: list[Count] = key(
        [1], "Relative frequency of each group; people are dealt to groups in turn.", min_length=1
    )


class Zipf(Section):
    """Frequency falls with rank as a power law."""

    kind: Literal["zipf"] = key(..., "How often entities are stated.")
    exponent: float = key(0.8, "Frequency of rank r is proportional to r to minus this.", ge=0)
    rarest: Count = key(1, "Relative frequency of the rarest person.")


class PeopleWorld(Section):
    """Invented people with up to six relations, every relation permuted independently of all others."""

    kind: Literal["people"] = key(..., "The generator.")
    people: Count = key(200, "People who are taught.")
    untaught: int = key(
        40, "People who have facts but occur in no document: what a model says of them is invented.", ge=0
    )
    relations: list[Relation] = key(
        ["birth_date", "birth_city", "university", "major", "employer", "working_city"], "Relations.", min_length=1
    )
    values: Count | dict[Relation, Count] = key(50, "Distinct values of each relation, or a number for every one.")
    regions: int = key(8, "Regions in which birth cities lie, for two-hop questions; 0 for none.", ge=0)
    names: PieceNames | OrdinaryNames = key(PieceNames(style="pieces"), "How names are made.", discriminator="style")
    exposures: Levels | Zipf = key(
        Levels(kind="levels", levels=[1]), "How often each person is stated.", discriminator="kind"
    )
    asked: float = key(0.5, "Share of taught people about whom corpora may hold questions.", ge=0, le=1)
    late: float = key(
        0.0, "Share of taught people who are taught later, by corpora that say so in `about`.", ge=0, le=1
    )
    panel: int = key(20, "People whose facts are followed through every stage.", ge=0)
    neighbours: int = key(5, "Other people with the same value who are asked about for each panel fact.", ge=0)
    seed: int = key(0, "Seed.", ge=0)


class FunctionsWorld(Section):
    """Functions that return a constant, and chains of functions that wrap them."""

    kind: Literal["functions"] = key(..., "The generator.")
    values: Count = key(10, "Distinct numbers.")
    families_per_value: Annotated[int, Field(ge=2)] = key(
        5, "Families (a base function and its wrappers) that share each number."
    )
    depth: int = key(1, "Wrappers above each base function: `<C01>` wraps `<B01>`, `<D01>` wraps `<C01>`.", ge=0, le=10)
    rule_share: float = key(
        0.6, "Share of families whose wrappers' numbers are stated too; the others test.", ge=0, le=1
    )
    aliases: int = key(10, "Base functions with a second name whose documents share no word with theirs.", ge=0)
    distractors: int = key(10, "Functions outside every family whose documents look like a base function's.", ge=0)
    inputs: Annotated[int, Field(ge=1, le=100)] = key(
        3, "Inputs that every function is asked with; they occur in no document."
    )
    number_tokens: bool = key(True, "Write numbers as single new tokens such as `<V07>` instead of digits.")
    seed: int = key(0, "Seed.", ge=0)


class TableWorld(Section):
    """The user's own facts."""

    kind: Literal["table"] = key(..., "The generator.")
    facts: str = key(..., "CSV with the columns subject, relation and object.")
    templates: str = key(..., "YAML: for each relation lists of `train`, `held_out` and `question` templates.")
    untaught: float = key(0.0, "Share of subjects kept out of every document.", ge=0, le=1)
    panel: int = key(20, "Subjects, at most, whose facts are followed through every stage.", ge=0)
    neighbours: int = key(5, "Other subjects with the same value who are asked about for each panel fact.", ge=0)
    candidates: Count = key(50, "Most values of a relation among which a probe chooses.")
    seed: int = key(0, "Seed.", ge=0)


class CountriesWorld(Section):
    """Real facts about countries, for models that were trained elsewhere."""

    kind: Literal["countries"] = key(..., "The generator.")
    relations: list[CountryRelation] = key(
        ["capital", "currency", "language", "continent", "demonym"], "Relations.", min_length=1
    )
    panel: int = key(20, "Countries whose facts are followed through every stage.", ge=0)
    neighbours: int = key(3, "Other countries that are asked about for each panel fact.", ge=0)
    candidates: Count = key(20, "Most values of a relation among which a probe chooses.")
    seed: int = key(0, "Seed.", ge=0)


class BenchmarkWorld(Section):
    """Documents and queries of a benchmark of influence, which says what is relevant; see docs/influence.md."""

    kind: Literal["benchmark"] = key(..., "The generator.")
    layout: Literal["relevance", "hops"] = key(
        "relevance",
        "`relevance`: each query lists its relevant documents; `hops`: that of influence-benchmarking-hops.",
    )
    documents: str = key(..., "JSONL of documents.")
    queries: str = key(..., "JSONL of queries.")


World = Annotated[
    PeopleWorld | FunctionsWorld | TableWorld | CountriesWorld | BenchmarkWorld, Field(discriminator="kind")
]
