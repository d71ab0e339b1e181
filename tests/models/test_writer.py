"""A local model as a writer."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from factlife.config.training import Scratch
from factlife.models import initialize_model, load_model, load_writer, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", *"abcdefghij"])}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    tokenizer.chat_template = "{% for message in messages %}a {{ message.content }} b{% endfor %}"
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = initialize_model(Scratch(kind="scratch", architecture="LlamaForCausalLM", config=small), tokenizer, seed=0)
    save_model(model, tokenizer, path := tmp_path_factory.mktemp("model"))
    return path


def test_answers_follow_from_prompts_and_not_from_what_else_was_asked(folder):
    one, other = (load_writer(folder, max_tokens=12) for _ in range(2))
    first, second = one("c d"), one("c d")
    other("e f")
    assert (first, second) == (other("c d"), other("c d"))
    assert first != second
    assert 1 <= len(first.split()) <= 12


def test_without_temperature_the_most_probable_tokens_are_written(folder):
    model, tokenizer = load_model(folder)
    ids = tokenizer("a c d b")["input_ids"]
    for _ in range(5):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert load_writer(folder, max_tokens=5, temperature=0)("c d") == tokenizer.decode(ids[4:])
