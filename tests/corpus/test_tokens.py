import logging

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from factlife.config.corpora import Tokenizer
from factlife.corpus import documents
from factlife.corpus.documents import Document
from factlife.corpus.tokenizers import train_tokenizer
from factlife.corpus.tokens import build_sequences, encode_documents, read_tokens, tokenize_corpus
from factlife.world import WorldError


@pytest.fixture(scope="module")
def table():
    return documents.documents_table(
        [
            Document("Ada lives here .", "a", ["ada.city"], ["ada"]),
            Document("Ben lives there now .", "a", ["ben.city"], ["ben"]),
            Document("Nobody reads this .", "a", ["x.y"], ["x"], split="held_out"),
        ]
    )


@pytest.fixture(scope="module")
def tokenizer(table):
    return train_tokenizer(Tokenizer(kind="word", corpus="x"), table["text"])


def test_documents_begin_and_end_and_held_out_ones_are_left_out(table, tokenizer):
    tokens = encode_documents(table, tokenizer)
    assert list(tokens["doc_id"]) == ["d0", "d1"]
    texts = [" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in tokens["input_ids"]]
    assert texts == ["<bos> Ada lives here . <eos>", "<bos> Ben lives there now . <eos>"]


def test_one_document_in_a_sequence(table, tokenizer):
    made = build_sequences(encode_documents(table, tokenizer), max_length=50)
    assert made["doc_ids"].tolist() == [["d0"], ["d1"]]
    assert made["fact_ids"].tolist() == [["ada.city"], ["ben.city"]]
    assert made["input_ids"].str.len().tolist() == [6, 7]


def test_cut_documents_are_reported(table, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        made = build_sequences(encode_documents(table, tokenizer), max_length=6)
    assert made["input_ids"].str.len().tolist() == [6, 6]
    assert "1 of 2 documents are truncated to 6 tokens" in caplog.text


def test_tokens_survive_parquet(table, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokenize_corpus(table, tmp_path / "tokenizer", tmp_path / "tokens")
    found, expected = read_tokens(tmp_path / "tokens"), encode_documents(table, tokenizer)
    assert [list(ids) for ids in found["input_ids"]] == expected["input_ids"].tolist()
    assert build_sequences(found, max_length=6).equals(build_sequences(expected, max_length=6))
    (tmp_path / "tokens" / "tokens.parquet").write_bytes(b"damaged")
    with pytest.raises(WorldError, match=r"tokens.parquet cannot be read as Parquet .*; delete it and run again"):
        read_tokens(tmp_path / "tokens")


ROWS = st.lists(
    st.tuples(st.integers(1, 12), st.sets(st.integers(0, 5), min_size=1, max_size=3)), min_size=1, max_size=200
)


@hypothesis(derandomize=True, deadline=None, max_examples=100)
@given(ROWS, st.integers(1, 40))
def test_packing_keeps_every_document_and_never_two_about_one_person(rows, size):
    tokens = pd.DataFrame(
        {
            "doc_id": [f"d{number}" for number in range(len(rows))],
            "fact_ids": [[f"f{number}"] for number in range(len(rows))],
            "entity_ids": [[f"e{entity}" for entity in sorted(entities)] for _, entities in rows],
            "input_ids": [[number] * length for number, (length, _) in enumerate(rows)],
        }
    )
    entities = dict(zip(tokens["doc_id"], tokens["entity_ids"], strict=True))
    ids = dict(zip(tokens["doc_id"], tokens["input_ids"], strict=True))

    packed = build_sequences(tokens, max_length=1, packing=size)

    assert sorted(doc for docs in packed["doc_ids"] for doc in docs) == sorted(tokens["doc_id"])
    for window in packed.itertuples():
        assert len(window.input_ids) <= size
        assert window.input_ids == [token for doc in window.doc_ids for token in ids[doc][:size]]
        assert window.fact_ids == [doc.replace("d", "f") for doc in window.doc_ids]
        people = [entity for doc in window.doc_ids for entity in entities[doc]]
        assert len(people) == len(set(people))
