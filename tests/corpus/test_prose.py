import platform
import sysconfig
from importlib import metadata

import pytest

from factlife.config.corpora import ProseCorpus
from factlife.corpus import render_documents
from factlife.corpus.documents import CorpusError
from factlife.corpus.prose import WORDS, prose_passages

PLAIN = (
    "This function looks at every item of the list that it is given and keeps those for which the answer is yes. "
    "It does so in the order in which they come, and it never looks at an item twice, so that the whole costs no "
    "more time than one walk along the list."
)


def corpus(**changes):
    return ProseCorpus(kind="prose", **{"packages": ["networkx"], "documents": 60, "held_out_fraction": 0.25} | changes)


@pytest.fixture(scope="module")
def documents():
    return render_documents(corpus())


def test_plain_paragraphs_are_kept_and_runs_joined():
    assert prose_passages(PLAIN) == [PLAIN]
    assert prose_passages(PLAIN.replace(". It", ".\n    It").replace("\n    ", "\n")) == [PLAIN]
    assert prose_passages(f"{PLAIN}\n\n{PLAIN}") == [f"{PLAIN} {PLAIN}"]
    assert prose_passages(f"Notes\n-----\n{PLAIN}") == [PLAIN]


def test_long_runs_are_cut_below_the_longest():
    made = prose_passages("\n\n".join([PLAIN] * 10))
    assert len(made) == 2 and all(len(text.split()) in WORDS for text in made)


def test_markup_is_taken_off():
    marked = (
        PLAIN.replace("function", ":func:`function`").replace("twice", "``twice``").replace("list.", "*list* [1]_.")
    )
    assert prose_passages(marked) == [PLAIN]


@pytest.mark.parametrize(
    "paragraph",
    [
        f">>> {PLAIN}",
        f"    {PLAIN}",
        f"- {PLAIN}",
        f"1. {PLAIN}",
        f".. note:: {PLAIN}",
        f"x : int\n    {PLAIN}",
        PLAIN.replace("no more", "a == b no more"),
        PLAIN.replace("the list that", "https://example.org that"),
        PLAIN.replace("yes.", "\\alpha."),
        PLAIN[:-1] + ":",
        PLAIN[0].lower() + PLAIN[1:],
        "Short.",
        " ".join(["Item_1 x2"] * 30) + ".",
    ],
)
def test_what_is_not_prose_is_left_out(paragraph):
    assert prose_passages(f"Summary.\n\n{paragraph}\n\nEnd.") == []


def test_documents_are_prose_of_the_asked_length_and_distinct(documents):
    assert len(documents) == 60 and documents["text"].is_unique
    assert documents["text"].str.split().str.len().isin(WORDS).all()
    assert documents["text"].str.fullmatch(r"[A-Z].*[.!?]").all()
    assert (documents["fact_ids"].str.len() == 0).all() and (documents["kind"] == "prose").all()
    assert list(documents.columns[:7]) == ["doc_id", "text", "fact_ids", "entity_ids", "kind", "template_ids", "split"]


def test_no_module_is_on_both_sides_of_the_split(documents):
    sides = documents.groupby("source")["split"].nunique()
    assert (sides == 1).all()
    assert 10 <= (documents["split"] == "held_out").sum() <= 15


def test_source_and_licence_are_recorded(documents):
    version = metadata.version("networkx")
    assert documents["source"].str.fullmatch(rf"networkx {version} networkx(\.\w+)*").all()
    assert set(documents["licence"]) == {"BSD-3-Clause"}


def test_standard_library_without_its_tests_and_never_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.get)
    files = {"a.py": "raise SystemExit", "b/__init__.py": "", "b/test/c.py": "", "site-packages/d.py": ""}
    for number, (file, code) in enumerate(files.items()):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f'"""Module {"abcd"[number]} it is. {PLAIN}{"!" * number}"""\n{code}\n')
    (tmp_path / "broken.py").write_text("def (")
    version = platform.python_version()
    with pytest.raises(CorpusError, match="python contain only 2"):
        render_documents(corpus(packages=["python"], documents=3))
    documents = render_documents(corpus(packages=["python"], documents=2, held_out_fraction=0))
    assert set(documents["source"]) == {f"python {version} a", f"python {version} b"}
    assert set(documents["licence"]) == {"PSF-2.0"} and set(documents["split"]) == {"train"}


def test_same_seed_same_documents(documents):
    assert render_documents(corpus()).equals(documents)
    assert not render_documents(corpus(seed=1)).equals(documents)


def test_more_documents_than_there_are_says_how_many():
    with pytest.raises(
        CorpusError, match=r"100000 documents of prose are needed, but networkx contain only [1-9]\d+; lower"
    ):
        render_documents(corpus(documents=100_000))


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(CorpusError, match="the package 'no-such-package' is not installed; install it or remove it"):
        render_documents(corpus(packages=["no-such-package"]))
