"""A tiny world and a tiny model with random weights."""

import pytest
import torch

from factlife.config.corpora import Tokenizer
from factlife.config.training import Scratch
from factlife.config.worlds import PeopleWorld
from factlife.corpus import tokenizers
from factlife.editing.editable import EditableModel
from factlife.models import initialize_model
from factlife.world import people


@pytest.fixture(scope="session")
def world():
    return people.build_world(
        PeopleWorld(kind="people", people=16, unseen=2, values=5, regions=0, panel=4, neighbours=2)
    )


@pytest.fixture(scope="session")
def tokenizer(world):
    return tokenizers.train_tokenizer(Tokenizer(kind="word", corpus="people"), ["The end . A day begins ."], world)


@pytest.fixture
def target(tokenizer):
    config = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    model = initialize_model(Scratch(kind="scratch", architecture="LlamaForCausalLM", config=config), tokenizer, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    spared = torch.randn(3, 48, 96, generator=generator, dtype=torch.float64)
    moments = {layer: spared[layer] @ spared[layer].T / 96 for layer in range(3)}
    return EditableModel(model, tokenizer, ("The end .", "A day begins ."), moments)
