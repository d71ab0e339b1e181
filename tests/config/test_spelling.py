"""One concept has one spelling in all sections of the config."""

from __future__ import annotations

import re

import pytest

from factlife.config import sections

# Concept: its spelling, and patterns of keys that would be other spellings of it.
SPELLINGS = {
    "learning rate": ("learning_rate", r"rate|lr|full_rate|.*_rate(?<!learning_rate)|.*_lr"),
    "batch size": ("batch_size", r"batch|batches|batchsize|minibatch.*"),
    "gradient clipping": ("max_grad_norm", r"clip|.*_clip|clip_.*|grad_clip.*"),
    "fraction": ("…_fraction", r"share|.*_share|.*_ratio|.*_proportion"),
    "warm-up": ("warmup_fraction", r"warmup|warm_up.*|warmup_(?!fraction).*"),
    "learning rate decay": ("decay_fraction", r"decay"),
    "rank of an adapter": ("r", r"rank|lora_r|lora_rank"),
    "scale of an adapter": ("lora_alpha", r"alpha"),
    "repository on a hub": ("repo_id", r"repo|repository|hub_id|dataset_id|.*_repository"),
    "steps between checkpoints": ("save_steps", r"save_every|.*_every"),
    "batches of similar length": ("group_by_length", r"by_length"),
    "held-out data": ("held_out_fraction, held_out_documents, …", r"held_out|heldout|holdout.*"),
    "key covariance": ("covariance", r".*moments?"),
    "noise of tracing": ("noise_level, noise_samples", r"noise|samples"),
    "package": ("packages, backend", r".*rooms?"),
    "SAEs and transcoders": ("dictionaries", r".*coders?"),
    "few-shot examples": ("num_fewshot", r"shots|n_shots|fewshot"),
    "tasks": ("tasks", r"tests|questions"),
    "model that measures perplexity": ("perplexity_model", r".*judges?"),
    "facts that are probed": ("probed_facts", r"asked|asks"),
    "site of an edit": ("fact_token, layers, choose_by", r"places?|by"),
    "documents per subject": ("documents_per_…", r".*renderings"),
    "unseen entities": ("unseen", r"untaught.*"),
    "new and old entities": ("new_fraction", r"late|early"),
    "optimisation steps of a target vector": ("v_num_grad_steps", r"grad_steps|value_steps"),
    "vocabulary": ("vocab_size", r"vocabulary.*"),
    "top-k removal": ("top_k_removal", r"removal|remove"),
    "bootstrap resamples": ("resamples of `run`", r".*resamples|n_bootstrap|bootstrap.*"),
    "tokens of a forward pass": ("batch_tokens of a model", r"batch_tokens|max_batch_tokens|tokens_per_batch"),
    "threads of a job": ("threads of `run`", r"threads|n_threads|cores"),
}  # fmt: skip

# Keys that match a pattern but mean something else, or that keep the name of the published code.
EXCEPTIONS = {
    ("Run", "resamples"): "the one place",
    ("Model", "batch_tokens"): "the one place",
    ("Run", "threads"): "the one place",
    ("Circuits", "stability_resamples"): "circuits discovered on resampled subjects, not bootstrap resamples of a mean",
    ("Sampler", "batch_tokens"): "tokens of generated texts, whose number is a matter of memory for a cache",
    ("Graphs", "transcoder"): "one transcoder, as in circuit-tracer, beside which no other dictionary can stand",
    ("TargetVectorSettings", "v_lr"): "ROME",
    ("HypernetworkTraining", "edit_lr"): "MEND: learning rate of the edit, beside the hypernetwork's learning_rate",
    ("HypernetworkTraining", "rank"): "MEND: rank of the hypernetwork's layers, which are no adapters",
    ("CollapseArm", "samples"): "texts that each generation writes, not noise",
    ("Ledger", "questions"): "questions across stages, not items of a benchmark",
}


def keys() -> list[tuple[str, str]]:
    return [(section.__name__, name) for section in sections() for name in section.model_fields]


@pytest.mark.parametrize("concept", SPELLINGS)
def test_a_concept_has_one_spelling(concept):
    spelling, pattern = SPELLINGS[concept]
    others = [key for key in keys() if re.fullmatch(pattern, key[1]) and key not in EXCEPTIONS]
    assert not others, f"{concept} is spelled {spelling}; rename {others}, or document an exception"


def test_every_exception_is_a_key():
    assert EXCEPTIONS.keys() <= set(keys())
