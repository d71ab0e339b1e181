import pandas as pd
import pytest

from factlife.influence.errors import InfluenceError
from factlife.influence.tokenized_texts import batch_texts, tokenize_documents, tokenize_queries


def documents(*texts, facts=("B01.returns",)):
    return pd.DataFrame(
        {"doc_id": [f"d{n}" for n in range(len(texts))], "text": texts, "fact_ids": [list(facts)] * len(texts), "entity_ids": [[]] * len(texts), "split": "train"}
    )  # fmt: skip


def test_only_the_completion_of_queries_is_scored(queries, tokenizer):
    for text, query in zip(tokenize_queries(queries, tokenizer), queries.itertuples(), strict=True):
        scored = tokenizer.decode([text.input_ids[position] for position in text.scored_positions])
        assert scored.strip() == query.completion
        assert text.scored_positions[-1] == len(text.input_ids) - 1


def test_answer_tokens_are_those_of_stated_values(functions, tokenizer):
    value = functions.facts.set_index("fact_id").at["B01.returns", "value"]
    frame = documents(f"<B01> ( 110 ) returns {value} . So {value} it is .", "<B01> is a function .")

    stating, unscored = tokenize_documents(frame, tokenizer, {"B01.returns": value}, "answer_tokens", max_length=64)

    assert [tokenizer.decode([stating.input_ids[position]]).strip() for position in stating.scored_positions] == [
        value,
        value,
    ]
    assert unscored.scored_positions == []
    all_scored = tokenize_documents(frame, tokenizer, {}, "all_tokens", max_length=64)[0]
    assert all_scored.scored_positions == list(range(1, len(all_scored.input_ids)))
    assert all_scored.input_ids[-1] == tokenizer.eos_token_id


def test_too_long_a_document_is_named(tokenizer):
    with pytest.raises(InfluenceError, match=r"document d1 has \d+ tokens, the model reads 8"):
        tokenize_documents(documents("<B01> .", "<B01> " * 20), tokenizer, {}, "all_tokens", max_length=8)


def test_a_completion_that_cannot_be_written_is_an_error(queries, tokenizer):
    with pytest.raises(InfluenceError, match="cannot write 'xyzzy'"):
        tokenize_queries(queries.head(1).assign(completion="xyzzy"), tokenizer)


def test_batches_contain_every_text_once(queries, tokenizer):
    texts = tokenize_queries(queries, tokenizer)
    batches = list(batch_texts(texts, 0, 40))

    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(texts)))
    assert all(batch.input_ids.numel() <= 40 for batch in batches)
    for batch in batches:
        assert [len(text.input_ids) for text in batch.texts] == batch.attention_mask.sum(1).tolist()
