"""Tiny models of several architectures, and pairs of prompts for them."""

from __future__ import annotations

import torch
import transformers

from factlife.circuits.attribution import PromptPairs
from factlife.tracing.patching import embed_tokens

SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
LOUD = SIZES | {"initializer_range": 0.2}
GROUPED = LOUD | {"num_key_value_heads": 2}
ROTARY = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}
MODELS = {
    "gpt_neox": ("GPTNeoXForCausalLM", LOUD | {"use_parallel_residual": False}),
    "gpt_neox-parallel": ("GPTNeoXForCausalLM", LOUD | {"use_parallel_residual": True}),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}),
    "llama-grouped": ("LlamaForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", GROUPED | {"head_dim": 16}),
    "gemma": ("GemmaForCausalLM", GROUPED | {"head_dim": 16}),
    "phi": ("PhiForCausalLM", GROUPED | {"rope_parameters": ROTARY, "tie_word_embeddings": False}),
}


def tiny(family: str):
    """A model with large random weights, biases included."""
    name, config = MODELS[family]
    architecture = getattr(transformers, name)
    model = architecture(architecture.config_class(**config)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def pairs_for(model, count: int = 4, length: int = 5, places: slice = slice(1, 3)) -> PromptPairs:
    """Random prompts that differ at some places."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 40, (count, length), generator=generator)
    others = ids.clone()
    others[:, places] = torch.randint(1, 40, others[:, places].shape, generator=generator)
    answers = torch.stack([torch.randperm(39, generator=generator)[:2] + 1 for _ in range(count)])
    return PromptPairs(
        embed_tokens(model, ids).clone(),
        embed_tokens(model, others).clone(),
        answers,
        [f"s{place}" for place in range(count)],
    )
