import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from factlife import models
from factlife.config.influence import Embedding
from factlife.influence import embeddings

RANKER = {"kind": "embedding", "source": {"kind": "folder", "path": "encoder"}}


@pytest.fixture(scope="module")
def encoder(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=12, **sizes))
    folder = tmp_path_factory.mktemp("encoder")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def mean_pooled(model, tokenizer, text):
    """Mean over the tokens of one text, as a unit vector."""
    with torch.no_grad():
        hidden = model(torch.tensor([tokenizer(text)["input_ids"][:12]])).last_hidden_state[0]
    return (hidden.mean(0) / hidden.mean(0).norm()).numpy()


@pytest.mark.parametrize("answer", [False, True])
def test_scores_are_cosines_of_means_over_tokens(encoder, queries, ranked, answer):
    model, tokenizer = models.load_encoder(encoder)
    settings, some_queries, some_documents = Embedding(**RANKER, include_answer=answer), queries.head(3), ranked.head(8)

    scores = embeddings.rank_by_embedding(model, tokenizer, settings, some_queries, some_documents, batch_tokens=40)

    texts = some_queries["prompt"]
    if answer:
        texts = texts + " " + some_queries["completion"]
    query_vectors, document_vectors = (
        np.stack([mean_pooled(model, tokenizer, text) for text in side]) for side in (texts, some_documents["text"])
    )
    np.testing.assert_allclose(scores, query_vectors @ document_vectors.T, atol=1e-5)


def test_long_texts_are_truncated_and_counted(encoder, caplog):
    model, tokenizer = models.load_encoder(encoder)
    text = "<B01> returns 1 . " * 8

    embeddings_of_texts = embeddings.embed_texts(model, tokenizer, [text, "<B01>"], batch_tokens=64)

    assert "1 of 2 texts have more than the 12 tokens" in caplog.text
    np.testing.assert_allclose(embeddings_of_texts[0], mean_pooled(model, tokenizer, text), atol=1e-5)


def test_an_encoder_may_lack_its_pooler(encoder, tokenizer, tmp_path):
    model, _ = models.load_encoder(encoder)
    BertModel(model.config, add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    models.load_encoder(tmp_path)


def test_an_encoder_that_lacks_weights_is_an_error(encoder, tokenizer, tmp_path):
    model, _ = models.load_encoder(encoder)
    weights = {name: weight for name, weight in model.state_dict().items() if "layer.1." not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    tokenizer.save_pretrained(tmp_path)

    with pytest.raises(models.ModelError, match=r"lacks the weights encoder\.layer\.1"):
        models.load_encoder(tmp_path)
