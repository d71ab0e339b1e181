"""A small world, its tokenizer, and a model with random weights."""

from __future__ import annotations

import pytest

from factlife.config.corpora import Tokenizer as TokenizerSettings
from factlife.config.training import Scratch
from factlife.config.worlds import PeopleWorld
from factlife.corpus import tokenizers
from factlife.models import initialize_model
from factlife.world import people


@pytest.fixture(scope="session")
def small_world():
    """Twelve people with names of two pieces, three majors and employers."""
    names = {"style": "pieces", "choices": [4, 4]}
    relations = ["major", "employer"]
    return people.build_world(
        PeopleWorld(kind="people", people=12, unseen=0, values=3, regions=0, panel=6, names=names, relations=relations)
    )


@pytest.fixture(scope="session")
def small_tokenizer(small_world):
    """A token for each piece of a name and each value."""
    return tokenizers.train_tokenizer(
        TokenizerSettings(kind="word", corpus="people"), small_world.probes["prompt"], small_world
    )


@pytest.fixture(scope="session")
def small_model(small_tokenizer):
    """Three layers with weights large enough for every place to matter."""
    config = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    config |= {"initializer_range": 0.3, "use_parallel_residual": False}
    return initialize_model(
        Scratch(kind="scratch", architecture="GPTNeoXForCausalLM", config=config), small_tokenizer, 0
    )
