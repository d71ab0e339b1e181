"""Corpora and tokenizers: the documents that models are trained on, and how they are tokenized."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key
from factlife.config.worlds import Relation
from factlife.config.written import WrittenCorpus


class PeopleCorpus(Section):
    """Biographies, windows of sentences about different people, and questions."""

    renamed: ClassVar[dict[str, str]] = {
        "replay": "replay_fraction",
        "renderings": "statements_per_fact",
        "window_share": "window_fraction",
        "joined_share": "joined_fraction",
        "full_names": "fullname",
        "distinct": "distinct_biographies",
        "reverse_share": "reverse_fraction",
        "reversed": "reversed_subjects",
        "denied_share": "negated_fraction",
        "question_renderings": "qa_per_fact",
    }

    kind: Literal["people"] = key(..., "Kind of corpus.")
    world: Name = key(..., "A world of kind `people`.")
    about: Literal["all", "old", "new"] = key(
        "all", "People whose facts are stated: all, or only those that the world counts as old or new."
    )
    relations: list[Relation] | None = key(None, "Relations whose facts are stated; null for all.", min_length=1)
    replay_fraction: float = key(
        0.0, "Fraction of documents that restate facts of old people, in a corpus about new people.", ge=0, lt=1
    )
    statements_per_fact: Count = key(22, "Statements of each fact about a person of relative frequency 1.")
    window_fraction: float = key(
        0.25, "Fraction of statements in windows of sentences about different people.", ge=0, le=1
    )
    window_sentences: Count = key(6, "Sentences in a window.")
    joined_fraction: float = key(
        1.0, "Fraction of sentences in biographies that join several facts, three to six.", ge=0, le=1
    )
    fullname: bool = key(
        True, "Use the full name in every sentence of a biography; otherwise a pronoun after the first sentence."
    )
    permute: bool = key(True, "Shuffle the order of facts in every biography.")
    distinct_biographies: Count | None = key(
        None, "Distinct biographies of each person, repeated as often as needed; null for no limit."
    )
    reverse_fraction: float = key(
        0.1, "Fraction of single-fact sentences that put the value before the name.", ge=0, le=1
    )
    reversed_subjects: Literal["all", "qa_train"] = key(
        "all", "People whose sentences may put the value before the name: all, or the split `qa_train`."
    )
    negated_fraction: float = key(0.1, "Fraction of windows that end with a true negated sentence.", ge=0, le=1)
    qa_per_fact: int = key(2, "Question-answer documents for each fact of people in the split `qa_train`.", ge=0)
    seed: int = key(0, "Seed.", ge=0)


class FunctionsCorpus(Section):
    """Six kinds of documents about functions."""

    renamed: ClassVar[dict[str, str]] = {"renderings": "documents_per_function"}

    kind: Literal["functions"] = key(..., "Kind of corpus.")
    world: Name = key(..., "A world of kind `functions`.")
    documents_per_function: Count = key(
        30, "Documents about each function; for wrappers and aliases, as many again about the link to their base."
    )
    depths: list[Annotated[int, Field(ge=0)]] | None = key(
        None, "Include only functions of these depths, 0 for base functions; null for all."
    )
    seed: int = key(0, "Seed.", ge=0)


class TableCorpus(Section):
    """The user's own facts in the user's own templates."""

    renamed: ClassVar[dict[str, str]] = {"renderings": "statements_per_fact", "question_renderings": "qa_per_fact"}

    kind: Literal["table"] = key(..., "Kind of corpus.")
    world: Name = key(..., "A world of kind `table`.")
    statements_per_fact: Count = key(40, "Statements of each fact.")
    qa_per_fact: int = key(0, "Question-answer documents for each fact.", ge=0)
    seed: int = key(0, "Seed.", ge=0)


class BenchmarkCorpus(Section):
    """The unchanged documents of an influence benchmark."""

    kind: Literal["benchmark"] = key(..., "Kind of corpus.")
    world: Name = key(..., "A world of kind `benchmark`, which names the file.")


class ProseCorpus(Section):
    """Real English that needs no download: documentation in the standard library and in installed packages."""

    renamed: ClassVar[dict[str, str]] = {"held_out": "held_out_fraction"}

    kind: Literal["prose"] = key(..., "Kind of corpus.")
    packages: list[str] = key(
        ["python", "numpy", "scipy", "scikit-learn", "pandas", "networkx", "statsmodels"],
        "Installed packages whose documentation is used; `python` is the standard library.",
        min_length=1,
    )
    documents: Count = key(2000, "Number of documents, chosen at random.")
    held_out_fraction: float = key(0.1, "Fraction of documents kept for evaluation.", ge=0, le=1)
    seed: int = key(0, "Seed.", ge=0)


class TextCorpus(Section):
    """A local text, JSONL or Parquet file, or a dataset of the Hugging Face hub, with one document per line or row."""

    renamed: ClassVar[dict[str, str]] = {"held_out": "held_out_fraction"}

    kind: Literal["text"] = key(..., "Kind of corpus.")
    path: str | None = key(None, "Local file: `.txt`, `.jsonl` or `.parquet`.")
    dataset: str | None = key(None, "Dataset on the hub, such as `Salesforce/wikitext`.")
    subset: str | None = key(None, "Configuration of the dataset.")
    revision: str | None = key(None, "Commit of the dataset.")
    column: str = key("text", "Column with the text.")
    split: str = key("train", "Split of the dataset.")
    documents: Count | None = key(None, "Number of documents, chosen at random; null for all.")
    held_out_fraction: float = key(0.1, "Fraction of documents kept for evaluation.", ge=0, le=1)
    seed: int = key(0, "Seed.", ge=0)


Corpus = Annotated[
    PeopleCorpus | FunctionsCorpus | TableCorpus | BenchmarkCorpus | ProseCorpus | TextCorpus | WrittenCorpus,
    Field(discriminator="kind"),
]


class Tokenizer(Section):
    """A tokenizer trained on a corpus."""

    renamed: ClassVar[dict[str, str]] = {"vocabulary": "vocab_size"}

    kind: Literal["word", "word_single_token_names", "bpe"] = key(
        ...,
        "`word`: each word is a token; `word_single_token_names`: each name is a token too; `bpe`: byte-level BPE.",
    )
    corpus: Name = key(..., "Corpus that the tokenizer is trained on.")
    vocab_size: Count = key(1000, "Vocabulary size of `bpe`.")
