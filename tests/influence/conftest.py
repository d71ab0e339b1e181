"""A world of functions, its documents, and tiny models that read them."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from factlife import corpus, world
from factlife.config.corpora import FunctionsCorpus, Tokenizer
from factlife.config.influence import InfluenceSettings
from factlife.config.worlds import FunctionsWorld
from factlife.corpus import tokenizers
from factlife.influence import select_documents, select_queries

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    "gpt_neox": (GPTNeoXConfig, SIZES | {"intermediate_size": 24, "tie_word_embeddings": True}),
    "llama": (LlamaConfig, SIZES | {"intermediate_size": 24, "num_key_value_heads": 1}),
    "gpt2": (GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
}


@pytest.fixture(scope="session")
def functions():
    return world.build_world(
        FunctionsWorld(kind="functions", values=3, families_per_value=2, aliases=2, distractors=3, depth=2)
    )


@pytest.fixture(scope="session")
def documents(functions):
    return corpus.render_documents(
        FunctionsCorpus(kind="functions", world="functions", documents_per_function=6), functions
    )


@pytest.fixture(scope="session")
def tokenizer(functions, documents):
    return tokenizers.train_tokenizer(Tokenizer(kind="word", corpus="functions"), documents["text"], functions)


@pytest.fixture(scope="session")
def queries(functions):
    return select_queries(functions, InfluenceSettings(relations=["returns"]))


@pytest.fixture(scope="session")
def ranked(documents, queries):
    return select_documents(documents, queries, InfluenceSettings(documents=40))


@pytest.fixture(scope="session")
def make_model(tokenizer):
    import torch

    def make(name):
        kind, sizes = CONFIGS[name]
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer), **sizes)).eval()

    return make
