"""Corpora and tokenizers: the documents that models read, and how they are cut into tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key
from factlife.config.worlds import Relation
from factlife.config.written import WrittenCorpus


class PeopleCorpus(Section):
    """Biographies, windows of sentences about different people, and questions."""

    kind: Literal["people"] = key(..., "The renderer.")
    world: Name = key(..., "A world of kind `people`.")
    about: Literal["everybody", "early", "late"] = key(
        "everybody", "Whose facts are stated: `late` people are those whom the world marks as such."
    )
    relations: list[Relation] | None = key(None, "State only facts of these relations; empty for all.", min_length=1)
    replay: float = key(
        0.0, "Share of documents that restate facts of early people, in a corpus about late people.", ge=0, lt=1
    )
    renderings: Count = key(22, "Times that each fact of a person of relative frequency 1 is stated.")
    window_share: float = key(0.25, "Share of renderings in windows of sentences about different people.", ge=0, le=1)
    window_sentences: Count = key(6, "Sentences in a window.")
    joined_share: float = key(
        1.0, "Share of mentions of a person in biographies that carry several facts, from three to six.", ge=0, le=1
    )
    full_names: bool = key(
        True, "Name the person in every sentence of a biography, instead of a pronoun after the first."
    )
    permute: bool = key(True, "Shuffle the order of facts in every biography.")
    distinct: Count | None = key(
        None, "Distinct biographies per person, repeated as often as needed; empty for no limit."
    )
    reverse_share: float = key(0.1, "Share of single-fact sentences that put the value before the name.", ge=0, le=1)
    reversed: Literal["everybody", "asked"] = key(
        "everybody", "About whom sentences may put the value before the name: all, or people of the split `asked`."
    )
    denied_share: float = key(0.1, "Share of windows that end by denying a fact that is not so.", ge=0, le=1)
    question_renderings: int = key(2, "Times that each fact of an asked person appears as question and answer.", ge=0)
    seed: int = key(0, "Seed.", ge=0)


class FunctionsCorpus(Section):
    """Six kinds of documents about functions."""

    kind: Literal["functions"] = key(..., "The renderer.")
    world: Name = key(..., "A world of kind `functions`.")
    renderings: Count = key(30, "Documents about each function.")
    depths: list[Annotated[int, Field(ge=0)]] | None = key(
        None, "Write only about functions with so many functions below them, 0 for base functions; empty for all."
    )
    seed: int = key(0, "Seed.", ge=0)


class TableCorpus(Section):
    """The user's own facts in the user's own templates."""

    kind: Literal["table"] = key(..., "The renderer.")
    world: Name = key(..., "A world of kind `table`.")
    renderings: Count = key(40, "Times that each fact is stated.")
    question_renderings: int = key(0, "Times that each fact appears as question and answer.", ge=0)
    seed: int = key(0, "Seed.", ge=0)


class BenchmarkCorpus(Section):
    """The documents of a benchmark of influence, as they are."""

    kind: Literal["benchmark"] = key(..., "The renderer.")
    world: Name = key(..., "A world of kind `benchmark`, which names the file.")


class ProseCorpus(Section):
    """Real English that is always at hand: documentation in the standard library and in pinned packages."""

    kind: Literal["prose"] = key(..., "The renderer.")
    packages: list[str] = key(
        ["python", "numpy", "scipy", "scikit-learn", "pandas", "networkx", "statsmodels"],
        "Installed packages whose documentation is read; `python` is the standard library.",
        min_length=1,
    )
    documents: Count = key(2000, "Documents, chosen at random.")
    held_out: float = key(0.1, "Share of documents kept for evaluation.", ge=0, le=1)
    seed: int = key(0, "Seed.", ge=0)


class TextCorpus(Section):
    """A local text, JSONL or Parquet file, or a hub dataset, one document per line or row."""

    kind: Literal["text"] = key(..., "The renderer.")
    path: str | None = key(None, "Local file: `.txt`, `.jsonl` or `.parquet`.")
    dataset: str | None = key(None, "Hub dataset, such as `Salesforce/wikitext`.")
    subset: str | None = key(None, "Configuration of the hub dataset.")
    revision: str | None = key(None, "Commit of the hub dataset.")
    column: str = key("text", "Column that holds the text.")
    split: str = key("train", "Split of the hub dataset.")
    documents: Count | None = key(None, "Documents, chosen at random; empty for all.")
    held_out: float = key(0.1, "Share of documents kept for evaluation.", ge=0, le=1)
    seed: int = key(0, "Seed.", ge=0)


Corpus = Annotated[
    PeopleCorpus | FunctionsCorpus | TableCorpus | BenchmarkCorpus | ProseCorpus | TextCorpus | WrittenCorpus,
    Field(discriminator="kind"),
]


class Tokenizer(Section):
    """A tokenizer trained on a corpus."""

    kind: Literal["whole_name", "name_parts", "bpe"] = key(
        ..., "`whole_name`: a name is one token; `name_parts`: a word is one token; `bpe`: byte-level pieces."
    )
    corpus: Name = key(..., "The corpus whose words or pieces it learns.")
    vocabulary: Count = key(1000, "Entries, for `bpe`.")
