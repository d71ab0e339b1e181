"""Restoring many cells at once is restoring one at a time, in every kind of architecture."""

import pytest
import torch
import transformers

from factlife.models.anatomy import capture, get_anatomy, patch
from factlife.tracing import patching
from factlife.tracing.patching import (
    COMPONENTS,
    RestoredState,
    answer_outcomes,
    embed_tokens,
    restore_states,
    stack_ids,
)
from factlife.tracing.prompts import TracingError

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
GROUPED = SIZES | {"num_key_value_heads": 2, "initializer_range": 0.3}
MODELS = {
    "GPTNeoX": ("GPTNeoXForCausalLM", SIZES | {"initializer_range": 0.3}),
    "GPT2": ("GPT2LMHeadModel", {"vocab_size": 40, "n_embd": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.3}),
    "Llama": ("LlamaForCausalLM", GROUPED),
    "Gemma2": ("Gemma2ForCausalLM", GROUPED | {"head_dim": 16, "sliding_window": 3}),
}


@pytest.fixture(params=MODELS)
def model(request):
    name, config = MODELS[request.param]
    torch.manual_seed(0)
    architecture = getattr(transformers, name)
    return architecture(architecture.config_class(**config)).eval()


@pytest.fixture
def runs(model, generator):
    """What clean and corrupted runs read, which differ at places 2 and 3, and the answers."""
    ids = torch.randint(1, 40, (5, 6), generator=generator)
    others = ids.clone()
    others[:, 2:4] = torch.randint(1, 40, (5, 2), generator=generator)
    answers = torch.randint(1, 40, (5, 2), generator=generator)
    return embed_tokens(model, ids), embed_tokens(model, others), answers


def one_at_a_time(model, clean, corrupted, answers, cell):
    parts = get_anatomy(model)
    modules = {}
    for layer, block in enumerate(parts.blocks):
        modules["residual", layer] = block.module
        modules["attention", layer] = block.attention_post_norm or block.attention
        modules["mlp", layer] = block.mlp_post_norm or block.mlp
    outcome = []
    for one, other, answer in zip(clean, corrupted, answers, strict=True):
        states = []
        for inputs in (one, other):
            with torch.inference_mode(), capture(modules) as found:
                model(inputs_embeds=inputs[None])
            states.append(dict(found))
        hooks = []
        for state, sites in zip(states, cell.sites(parts.n_layers), strict=True):
            for site in sites:

                def put(hidden, value=state[site]):
                    hidden = hidden.clone()
                    hidden[0, cell.position] = value[0, cell.position]
                    return hidden

                hooks.append(patch(modules[site], put))
        for hook in hooks:
            hook.__enter__()
        with torch.inference_mode():
            logits = model(inputs_embeds=other[None]).logits[0, -1]
        for hook in hooks:
            hook.__exit__(None, None, None)
        outcome.append([logits.softmax(-1)[answer[0]].item(), (logits[answer[0]] - logits[answer[1]]).item()])
    return torch.tensor(outcome)


@pytest.mark.parametrize(("batch_tokens", "enough"), [(1, 256), (70, 1), (10000, 60), (10000, 1000)])
def test_all_cells_at_once_are_one_cell_at_a_time(model, runs, batch_tokens, enough, monkeypatch):
    monkeypatch.setattr(patching, "_MIN_PASS_TOKENS", enough)
    cells = [
        RestoredState(component, position, layer, window)
        for component in COMPONENTS
        for position in (2, 3, 5)
        for layer in range(3)
        for window in ((1, 3) if component in ("attention", "mlp") else (1,))
    ]

    found = restore_states(model, *runs, cells, batch_tokens=batch_tokens)

    for number in range(0, len(cells), 5):
        expected = one_at_a_time(model, *runs, cells[number])
        torch.testing.assert_close(found[:, number], expected, rtol=1e-4, atol=1e-4)


def test_cells_that_begin_at_later_blocks_run_together_while_there_are_few(monkeypatch):
    def passes(enough):
        monkeypatch.setattr(patching, "_MIN_PASS_TOKENS", enough)
        return patching._passes(cells, n_layers=4, runs=5, length=4)

    cells = [RestoredState("mlp", position, layer) for position in (1, 3) for layer in (0, 2, 3)]
    # Of four positions, three are run from position 1 on and one from position 3 on; five runs.
    every = [(0, 1, [0]), (2, 1, [1]), (3, 1, [2]), (0, 3, [3]), (2, 3, [4]), (3, 3, [5])]
    assert passes(1) == every
    assert passes(20) == [(0, 1, [0, 1]), (3, 1, [2]), (0, 3, [3, 4, 5])]
    assert passes(100) == [(0, 1, [0, 1, 2]), (0, 3, [3, 4, 5])]


def test_restoring_everything_gives_the_clean_run_and_nothing_the_corrupted_one(model, runs):
    clean, corrupted, answers = runs
    high, low = answer_outcomes(model, clean, answers), answer_outcomes(model, corrupted, answers)
    assert (high - low).abs().min() > 0
    cells = [
        RestoredState("residual", 5, 2),
        RestoredState("residual", 1, 0),
        RestoredState("mlp", 0, 1, 3),
        RestoredState("residual", 3, 2),
    ]

    found = restore_states(model, clean, corrupted, answers, cells)

    torch.testing.assert_close(found[:, 0], high, rtol=1e-4, atol=1e-5)
    for number in (1, 2, 3):
        torch.testing.assert_close(found[:, number], low, rtol=1e-4, atol=1e-5)


def test_where_only_the_last_token_differs_each_layer_holds_the_whole_effect(model, runs):
    clean, _, answers = runs
    corrupted = clean.clone()
    corrupted[:, -1] = clean[:, 0].flip(0)

    found = restore_states(
        model, clean, corrupted, answers, [RestoredState("residual", 5, layer) for layer in range(3)]
    )

    expected = answer_outcomes(model, clean, answers)[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "restored", "frozen"),
    [
        (RestoredState("residual", 0, 1), [("residual", 1)], []),
        (RestoredState("mlp", 0, 1, 3), [("mlp", 0), ("mlp", 1), ("mlp", 2)], []),
        (RestoredState("attention", 0, 0, 3), [("attention", 0), ("attention", 1)], []),
        (RestoredState("attention", 0, 2, 2), [("attention", 1), ("attention", 2)], []),
        (RestoredState("residual_mlp_frozen", 0, 1), [("residual", 1)], [("mlp", 2), ("mlp", 3)]),
        (RestoredState("residual_attention_frozen", 0, 3), [("residual", 3)], []),
    ],
)
def test_a_cell_writes_its_window_and_freezes_what_is_later(cell, restored, frozen):
    assert cell.sites(4) == (restored, frozen)


def test_a_layer_that_does_not_exist_is_an_error():
    with pytest.raises(TracingError, match="layer 4 does not exist: the model has layers 0 to 3"):
        RestoredState("mlp", 0, 4).sites(4)


def test_prompts_of_unequal_length_are_an_error():
    with pytest.raises(TracingError, match="prompts of 2, 3 tokens cannot be patched into each other"):
        stack_ids([[1, 2], [1, 2, 3]])
