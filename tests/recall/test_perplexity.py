"""Perplexity against one text at a time and against closed forms."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from factlife.config.corpora import Tokenizer as Settings
from factlife.config.training import Scratch
from factlife.corpus.tokenizers import train_tokenizer
from factlife.models import initialize_model
from factlife.recall.perplexity import corpus_perplexity, text_losses

WORDS = "Ada lives in New York and Ben works in Paris"
TEXTS = [WORDS, "Ada", "Ben works in Rome " * 9, "Ada lives in Paris", "", "in " * 40]
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Settings(kind="word", corpus="x"), TEXTS)


def model(tokenizer, context=16, spread=0.5):
    config = SIZES | {"initializer_range": spread, "max_position_embeddings": context}
    return initialize_model(Scratch(kind="scratch", architecture="LlamaForCausalLM", config=config), tokenizer, 0)


@torch.inference_mode()
def slow(model, ids):
    """Every token after the first from what its window holds before it; windows share one token."""
    context, total = model.config.max_position_embeddings, 0.0
    for place in range(1, len(ids)):
        start = (place - 1) // (context - 1) * (context - 1)
        logits = model(torch.tensor([ids[start:place]])).logits[0, -1].double()
        total -= logits.log_softmax(-1)[ids[place]].item()
    return total


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_batches_and_windows_change_nothing(tokenizer, batch_tokens):
    asked = model(tokenizer)
    found = text_losses(asked, tokenizer, TEXTS, batch_tokens=batch_tokens)
    ids = tokenizer(TEXTS)["input_ids"]
    assert found["tokens"].tolist() == [max(0, len(each) - 1) for each in ids]
    assert found["characters"].tolist() == [len(text) for text in TEXTS]
    assert found["nats"].tolist() == pytest.approx([slow(asked, each) for each in ids], rel=1e-5)


def test_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tokenizer):
    uniform = model(tokenizer)
    with torch.no_grad():
        uniform.get_output_embeddings().weight.zero_()
    assert corpus_perplexity(text_losses(uniform, tokenizer, TEXTS)) == pytest.approx(len(tokenizer), rel=1e-6)


def test_perplexity_weighs_tokens_and_not_texts():
    rows = pd.DataFrame({"tokens": [1, 3], "nats": [4.0, 0.0]})
    assert corpus_perplexity(rows) == pytest.approx(math.e)
    assert math.isnan(corpus_perplexity(rows.head(0)))
