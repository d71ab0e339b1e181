"""Writing against transformers' own `generate` and against known distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factlife.collapse.sampling import sample_texts
from factlife.config.collapse import Sampler
from factlife.config.corpora import Tokenizer as Settings
from factlife.config.training import Scratch
from factlife.corpus.tokenizers import train_tokenizer
from factlife.models import initialize_model

WORDS = "Ada lives in New York and Ben works in Paris with all of her nine cats"
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "GPTNeoXForCausalLM": SIZES,
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "LlamaForCausalLM": SIZES | {"num_key_value_heads": 2},
    "Qwen2ForCausalLM": SIZES
    | {"num_key_value_heads": 2, "sliding_window": 4, "use_sliding_window": True}
    | {"layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Settings(kind="word", corpus="x"), [WORDS])


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tokenizer):
    config = FAMILIES[request.param] | {"initializer_range": 0.4}
    return initialize_model(Scratch(kind="scratch", architecture=request.param, config=config), tokenizer, 0)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    ids = tokenizer(WORDS)["input_ids"]
    rng = np.random.default_rng(0)
    return [[ids[0], *rng.choice(ids[1:], length).tolist()] for length in (0, 3, 1, 7, 3, 0, 5, 12, 2, 3)]


def generated(model, tokenizer, prompts, **how):
    found = []
    for prompt in prompts:
        row = model.generate(
            input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=tokenizer.eos_token_id, **how,
        )[0, len(prompt) :].tolist()  # fmt: skip
        found.append(row)
    return found


@pytest.mark.parametrize("batch_tokens", [1, 60, 10000])
def test_greedy_is_generate_one_prompt_at_a_time(model, tokenizer, prompts, batch_tokens):
    settings = Sampler(method="greedy", max_new_tokens=12, batch_tokens=batch_tokens)

    assert sample_texts(model, tokenizer, prompts, settings, seed=0) == generated(model, tokenizer, prompts)


def test_texts_that_end_leave_the_batch_and_change_no_other(model, tokenizer, prompts):
    with torch.no_grad():
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 4
    try:
        settings = Sampler(method="greedy", max_new_tokens=12)
        found = sample_texts(model, tokenizer, prompts, settings, seed=0)
        assert found == generated(model, tokenizer, prompts)
        drawn = sample_texts(model, tokenizer, prompts * 5, Sampler(max_new_tokens=12), seed=0)
        assert len({len(row) for row in drawn}) > 2
        alone = sample_texts(model, tokenizer, prompts * 5, Sampler(max_new_tokens=12, batch_tokens=1), seed=0)
        assert alone == drawn
    finally:
        with torch.no_grad():
            model.get_output_embeddings().weight[tokenizer.eos_token_id] /= 4


def test_beams_are_those_of_generate(model, tokenizer, prompts):
    settings = Sampler(method="beam", num_beams=3, max_new_tokens=12, batch_tokens=200)

    found = sample_texts(model, tokenizer, prompts, settings, seed=0)

    alone = generated(model, tokenizer, prompts, num_beams=3)
    ends = [row[: row.index(tokenizer.eos_token_id) + 1] if tokenizer.eos_token_id in row else row for row in alone]
    assert found == ends


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.6)])
def test_draws_have_the_model_s_distribution(model, tokenizer, prompts, temperature, top_p):
    prompt = prompts[3]
    with torch.inference_mode():
        shares = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1).numpy().astype(float)
    if top_p < 1:
        order = np.argsort(-shares)
        keep = order[: 1 + int((shares[order].cumsum() < top_p).sum())]
        shares = np.where(np.isin(np.arange(len(shares)), keep), shares, 0)
        shares /= shares.sum()

    settings = Sampler(temperature=temperature, top_p=top_p, max_new_tokens=1, batch_tokens=4000)
    drawn = [row[0] for row in sample_texts(model, tokenizer, [prompt] * 4000, settings, seed=1)]

    counts = np.bincount(drawn, minlength=len(shares))
    assert counts[shares == 0].sum() == 0
    # Pearson's statistic has mean and half variance of as many as there are tokens less one.
    there = shares * 4000 > 5
    statistic = ((counts - 4000 * shares)[there] ** 2 / (4000 * shares[there])).sum()
    assert statistic < there.sum() + 5 * np.sqrt(2 * there.sum())


def test_another_seed_draws_other_texts(model, tokenizer, prompts):
    settings = Sampler(max_new_tokens=12)

    first, same, other = (sample_texts(model, tokenizer, prompts, settings, seed=seed) for seed in (0, 0, 1))

    assert first == same
    assert first != other
