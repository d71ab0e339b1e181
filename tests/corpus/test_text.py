import json

import pandas as pd
import pytest

from factlife.config.corpora import TextCorpus
from factlife.corpus import download_dataset, render_documents
from factlife.corpus.documents import CorpusError

TEXTS = [f"Document number {number}." for number in range(20)]


def corpus(**changes):
    return TextCorpus(kind="text", **changes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join([*TEXTS[:10], "", "  ", *TEXTS[10:]]) + "\n", encoding="utf-8")
    lines = [json.dumps({"text": text, "other": 1}) for text in TEXTS]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "", json.dumps({"text": None})]), encoding="utf-8")
    pd.DataFrame({"text": [*TEXTS, None, " "], "body": "x"}).to_parquet(tmp_path / "a.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_local_files_give_one_document_per_line_or_row(folder, name):
    documents = render_documents(corpus(path=str(folder / name)))
    assert list(documents["text"]) == TEXTS
    assert (documents["split"] == "held_out").sum() == 2
    assert (documents["fact_ids"].str.len() == 0).all() and list(documents["doc_id"][:2]) == ["d00", "d01"]


def test_a_dataset_in_the_hubs_layout(folder, tmp_path):
    data = tmp_path / "dataset"
    data.mkdir()
    (data / "train.jsonl").write_text((folder / "a.jsonl").read_text())
    settings = corpus(dataset=str(data), revision="main", held_out_fraction=0)
    rows = tmp_path / "rows.parquet"
    download_dataset(settings, rows)
    assert list(render_documents(settings, path=rows)["text"]) == TEXTS
    with pytest.raises(CorpusError, match=r"has no column `body`, but text, other; set the corpus's `column`"):
        download_dataset(settings.model_copy(update={"column": "body"}), rows)
    with pytest.raises(CorpusError, match=r"\(split 'test', revision 'main'\) cannot be loaded"):
        download_dataset(settings.model_copy(update={"split": "test"}), rows)


def test_random_choice_depends_on_the_seed_alone(folder):
    few = [render_documents(corpus(path=str(folder / "a.txt"), documents=8, seed=seed)) for seed in (0, 0, 1)]
    assert few[0].equals(few[1]) and not few[0].equals(few[2])
    assert few[0]["text"].is_unique and set(few[0]["text"]) <= set(TEXTS) and len(few[0]) == 8


def test_another_column(folder):
    assert set(render_documents(corpus(path=str(folder / "a.parquet"), column="body"))["text"]) == {"x"}


@pytest.mark.parametrize(
    ("name", "content", "changes", "text"),
    [
        ("b.txt", None, {}, r"b.txt does not exist; correct the corpus's `path`"),
        ("b.csv", b"a", {}, r"b.csv ends in '.csv'; .* must end in .txt, .jsonl, .parquet"),
        ("b.txt", b"\xff\xfe\xfa", {}, r"b.txt is damaged or not in UTF-8"),
        ("b.txt", b"\n\n", {}, r"the corpus has no documents"),
        (
            "b.txt",
            b"one\ntwo\n",
            {"documents": 3},
            r"3 documents are needed, but .*b.txt has only 2; lower `documents`",
        ),
        ("b.jsonl", b'{"text": "a"}\n{"text"', {}, r"b.jsonl, line 2 is not JSON"),
        ("b.jsonl", b'{"body": "a"}', {}, r"b.jsonl, line 1 has no text named `text`; set the corpus's `column`"),
        ("b.jsonl", b'{"text": 3}', {}, r"b.jsonl, line 1 has no text named `text`"),
        ("b.parquet", b"no parquet", {}, r"b.parquet is damaged"),
        ("a.parquet", None, {"column": "texts"}, r"a.parquet has no column `texts`, but text, body; set"),
    ],
)
def test_bad_files(folder, name, content, changes, text):
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CorpusError, match=text):
        render_documents(corpus(path=str(folder / name), **changes))
