"""Anatomy: for every family, the parts found are those that make the model's output."""

from __future__ import annotations

import pytest
import torch
import transformers

from factlife.models import ModelError
from factlife.models.anatomy import (
    MODULE_NAMES,
    capture,
    decompose_residual,
    get_anatomy,
    logits_from_residual,
    patch,
    position_ids_from_mask,
    residual_writers,
    weight_matrix,
)

COMMON = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 16}
ROTARY = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
GPTJ = {"vocab_size": 40, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "n_positions": 32, "rotary_dim": 4}
GPT2 = {"vocab_size": 40, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "n_positions": 32}

# Class name and config of a tiny model per family, and whether it is parallel and writes through norms.
CONFIGS = {
    "cohere2": ("Cohere2", WIDE | {"logit_scale": 0.3, "sliding_window": 3}, True, False),
    "gemma": ("Gemma", WIDE, False, False),
    "gemma2": ("Gemma2", WIDE | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}, False, True),
    "gemma3_text": ("Gemma3", WIDE | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}, False, True),
    "gpt2": ("GPT2", GPT2, False, False),
    "gpt_neox": ("GPTNeoX", COMMON | {"use_parallel_residual": True, "rope_parameters": ROTARY}, True, False),
    "gpt_neox-sequential": ("GPTNeoX", COMMON | {"use_parallel_residual": False}, False, False),
    "gptj": ("GPTJ", GPTJ, True, False),
    "llama": ("Llama", GROUPED | {"attention_bias": True, "mlp_bias": True}, False, False),
    "mistral": ("Mistral", WIDE | {"sliding_window": 3}, False, False),
    "olmo2": ("Olmo2", GROUPED, False, True),
    "phi": ("Phi", GROUPED | {"rope_parameters": ROTARY, "tie_word_embeddings": False}, True, False),
    "qwen2": ("Qwen2", GROUPED, False, False),
    "qwen3": ("Qwen3", WIDE, False, False),
}
CLASSES = {"GPT2": "GPT2LMHeadModel"}
CONFIG_CLASSES = {"Gemma3": "Gemma3TextConfig"}


@pytest.fixture(params=CONFIGS)
def family(request):
    return request.param


@pytest.fixture
def model(family):
    return tiny(family)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(1, 40, (2, 7), generator=generator)
    mask = torch.ones_like(input_ids)
    mask[1, :3] = 0
    return {"input_ids": input_ids.where(mask.bool(), 0), "attention_mask": mask}


def tiny(family):
    """A model whose every parameter, those of norms and biases too, has been moved from where it starts."""
    name, config, _, _ = CONFIGS[family]
    config = getattr(transformers, CONFIG_CLASSES.get(name, f"{name}Config"))(**config)
    model = getattr(transformers, CLASSES.get(name, f"{name}ForCausalLM"))(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def scores(model, batch):
    with torch.no_grad():
        return model(**batch, position_ids=position_ids_from_mask(batch["attention_mask"])).logits


def test_every_family_is_tested():
    assert {family.partition("-")[0] for family in CONFIGS} == set(MODULE_NAMES)


@torch.no_grad()
def test_writers_add_up_to_the_final_residual(model, batch):
    parts, final = decompose_residual(model, **batch)

    real = batch["attention_mask"].bool()
    parts, final = parts[:, real], final[real]
    assert len(parts) == len(residual_writers(get_anatomy(model))) == 1 + 2 * 3
    assert (parts.sum(0) - final).norm() <= 1e-4 * final.norm()
    assert (parts.norm(dim=(1, 2)) > 1e-2 * final.norm()).all(), "a writer too weak to be missed"


@torch.no_grad()
def test_final_residual_gives_the_logits(model, batch):
    _, final = decompose_residual(model, **batch)

    real = batch["attention_mask"].bool()
    torch.testing.assert_close(
        logits_from_residual(get_anatomy(model), final)[real], scores(model, batch)[real], rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_padding_side_changes_no_part(model, batch):
    parts, _ = decompose_residual(model, **batch)
    right = {name: torch.stack([rows[0], rows[1].roll(-3)]) for name, rows in batch.items()}

    shifted, _ = decompose_residual(model, **right)

    torch.testing.assert_close(parts[:, 1, 3:], shifted[:, 1, :4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inputs", [False, True])
def test_identity_patch_leaves_logits(model, batch, inputs):
    before = scores(model, batch)
    parts = get_anatomy(model)
    modules = {
        id(module): module
        for writer in residual_writers(parts)
        if writer.layer is not None
        for module in writer.modules
    }
    for block in parts.blocks:
        modules |= {id(part): part for part in vars(block).values() if part is not None}
    for module in modules.values():
        with patch(module, torch.clone, inputs=inputs):
            assert torch.equal(scores(model, batch), before)


@torch.no_grad()
def test_patched_writer_is_what_is_written(model, batch):
    for row, writer in enumerate(residual_writers(get_anatomy(model))):
        with patch(writer.modules[0], lambda output: torch.full_like(output, 0.5)):
            parts, final = decompose_residual(model, **batch)
        if writer.layer is not None:
            assert (parts[row] == 0.5).all()
        assert (parts.sum(0) - final).norm() <= 1e-4 * final.norm()


@torch.no_grad()
def test_projections_read_and_write_what_their_weights_say(model, family, batch):
    parts = get_anatomy(model)
    assert (parts.n_layers, parts.d_model, parts.n_heads, parts.d_mlp) == (3, 32, 4, 48)
    assert parts.n_kv_heads == CONFIGS[family][1].get("num_key_value_heads", 4)
    widths = {"mlp_out": parts.d_mlp, "attention_out": parts.n_heads * parts.head_dim}
    for block in parts.blocks:
        for name, width in widths.items():
            module = getattr(block, name)
            with capture({0: module}, inputs=True) as read, capture({0: module}) as written:
                model(**batch)
            assert weight_matrix(module).shape == (parts.d_model, width)
            assert read[0].shape == (2, 7, width)
            bias = 0 if module.bias is None else module.bias
            torch.testing.assert_close(read[0] @ weight_matrix(module).T + bias, written[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_mlp_reads_attention_of_its_block_unless_parallel(model, family, batch):
    parts = get_anatomy(model)
    block = parts.blocks[0]
    with capture({0: block.mlp}, inputs=True) as before:
        model(**batch)
    with patch(block.attention_post_norm or block.attention, torch.neg), capture({0: block.mlp}, inputs=True) as after:
        model(**batch)
    assert parts.parallel == CONFIGS[family][2] == torch.equal(before[0], after[0])


@torch.no_grad()
def test_norms_after_writers_undo_a_scale(model, family, batch):
    parts, real = get_anatomy(model), batch["attention_mask"].bool()
    before, _ = decompose_residual(model, **batch)
    with patch(parts.blocks[0].mlp_out, lambda output: 3 * output):
        after, _ = decompose_residual(model, **batch)
    unscaled = torch.allclose(after[2][real], before[2][real], rtol=1e-2)
    assert parts.post_norm == CONFIGS[family][3] == unscaled


@torch.no_grad()
def test_norms_are_what_attention_and_mlp_read(model, batch):
    for block in get_anatomy(model).blocks:
        for norm, reader in ((block.attention_norm, block.attention), (block.mlp_norm, block.mlp)):
            if norm is not None:
                with capture({"norm": norm}) as normed, capture({"reader": reader}, inputs=True) as read:
                    model(**batch)
                assert torch.equal(normed["norm"], read["reader"])


def test_weight_is_a_view_of_what_the_model_uses(model, batch):
    before = scores(model, batch)
    with torch.no_grad():
        weight_matrix(get_anatomy(model).blocks[0].mlp_out)[:, 0] += 1.0
    assert not torch.allclose(before, scores(model, batch))


def test_captured_tensors_carry_gradients(batch):
    model = tiny("llama")
    module = get_anatomy(model).blocks[0].mlp_out
    with capture({"key": module}, inputs=True) as found:
        model(**batch).logits.sum().backward(inputs=[module.weight])
    assert found["key"].requires_grad


def test_hooks_are_gone_after_an_error(batch):
    model = tiny("gpt2")
    before = scores(model, batch)
    with pytest.raises(RuntimeError), patch(get_anatomy(model).blocks[0].attention, torch.zeros_like):
        raise RuntimeError
    assert torch.equal(scores(model, batch), before)


def test_unsupported_architecture_is_named_with_the_place_to_add_it():
    config = transformers.OPTConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32
    )
    with pytest.raises(
        ModelError, match=r"`opt` is not supported; supported are cohere2, .*\n.*MODULE_NAMES in .*anatomy.py"
    ):
        get_anatomy(transformers.OPTForCausalLM(config))
