"""Causal tracing: how much of the answer returns when one state of a corrupted run is restored."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from factlife.config.tracing import Tracing
from factlife.models.anatomy import get_anatomy
from factlife.tracing.patching import RestoredState, answer_outcomes, embed_tokens, restore_states, stack_ids
from factlife.tracing.prompts import PromptPair, make_prompt_pairs
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COLUMNS = [
    "fact_id", "relation", "probe_id", "known", "n_target_tokens", "exclusion_reason", "corruption", "component", "window",
    "token_role", "position", "token", "layer", "clean_probability", "corrupted_probability", "clean_logit_diff",
    "corrupted_logit_diff", "indirect_effect", "indirect_effect_logit_diff",
]  # fmt: skip


def trace_facts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, settings: Tracing, *, batch_tokens: int
) -> pd.DataFrame:
    """Trace the panel's facts, those that the model knows first.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        world: source of the panel facts; each is traced with a forward probe that the model answers, if there is one.
        settings: corruptions and components.
        batch_tokens: tokens in a forward pass; changes effects only in the last digits.

    Returns:
        One row per fact, corruption, component, window, position and layer. Positions start at the subject's first
        token, since both runs are equal before it. Effects are measured on the probability of the answer's first token
        and on its logit minus the other answer's. An indirect effect is the restored minus the corrupted run, averaged
        over noise samples. A fact that cannot be traced has one row with the reason in ``exclusion_reason``.
    """
    panel = world.facts.loc[world.facts["panel"], "fact_id"]
    probes = world.probes[(world.probes["kind"] == "forward") & world.probes["fact_id"].isin(panel)]
    pairs, exclusion_reasons = make_prompt_pairs(tokenizer, world, probes, seed=settings.seed)
    selected, is_known = _select_pairs(model, pairs, settings.facts, batch_tokens)
    rows: list[dict[str, Any]] = []
    for corruption in settings.corruptions:
        available = [pair for pair in selected if corruption != "same_answer" or pair.same_answer_ids]
        for group in _groups(available):
            rows += _rows(model, tokenizer, group, corruption, settings, batch_tokens)
    frame = pd.concat([pd.DataFrame(rows), _excluded_facts(probes, world, pairs, exclusion_reasons)], ignore_index=True)
    frame["known"] = frame["probe_id"].map(is_known).astype("boolean")
    dtypes = {"window": "Int64", "position": "Int64", "layer": "Int64", "n_target_tokens": "Int64"}
    return frame.reindex(columns=COLUMNS).astype(dtypes)


def _select_pairs(
    model: PreTrainedModel, pairs: Sequence[PromptPair], facts: int, batch_tokens: int
) -> tuple[list[PromptPair], dict[str, bool]]:
    """One pair per fact, preferably one that the model answers; known facts first, relations take turns."""
    is_known = {}
    for group in _by_length(pairs):
        ids = stack_ids([pair.ids for pair in group])
        for batch in torch.arange(len(ids)).split(max(1, batch_tokens // ids.shape[1])):
            with torch.inference_mode():
                predictions = (
                    model(ids[batch].to(model.device), use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
                )
            for row, token in zip(batch.tolist(), predictions.tolist(), strict=True):
                is_known[group[row].probe_id] = token == group[row].answer
    best: dict[str, PromptPair] = {}
    for pair in pairs:
        if pair.fact_id not in best or (is_known[pair.probe_id] and not is_known[best[pair.fact_id].probe_id]):
            best[pair.fact_id] = pair
    n_taken: dict[tuple[str, bool], int] = defaultdict(int)
    order = {}
    for pair in best.values():
        pair_is_known = is_known[pair.probe_id]
        order[pair.fact_id] = (not pair_is_known, n_taken[pair.relation, pair_is_known], pair.relation)
        n_taken[pair.relation, pair_is_known] += 1
    return sorted(best.values(), key=lambda pair: order[pair.fact_id])[:facts], is_known


def _by_length(pairs: Sequence[PromptPair]) -> Iterator[list[PromptPair]]:
    by_length = defaultdict(list)
    for pair in pairs:
        by_length[len(pair.ids)].append(pair)
    yield from by_length.values()


def _groups(pairs: Sequence[PromptPair]) -> Iterator[list[PromptPair]]:
    """Pairs with the same length and start of the subject, so that the same states can be restored in all."""
    by_shape = defaultdict(list)
    for pair in pairs:
        by_shape[len(pair.ids), pair.subject.start].append(pair)
    yield from by_shape.values()


def restored_states(settings: Tracing, positions: range, n_layers: int) -> list[RestoredState]:
    """All states to restore: the residual stream at each layer, and windows of attention or MLPs around each layer."""
    return [
        RestoredState(component, position, layer, window)
        for component in settings.components
        for window in (settings.windows if component in ("attention", "mlp") else [1])
        for position in positions
        for layer in range(n_layers)
    ]


def _rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    group: list[PromptPair],
    corruption: str,
    settings: Tracing,
    batch_tokens: int,
) -> Iterator[dict[str, Any]]:
    ids = stack_ids([pair.ids for pair in group])
    positions = range(group[0].subject.start, ids.shape[1])
    states = restored_states(settings, positions, get_anatomy(model).n_layers)
    answers = torch.tensor([[pair.answer, pair.donor_answer] for pair in group]).to(model.device)
    clean = embed_tokens(model, ids)
    corrupted = corrupt_inputs(model, group, corruption, settings)
    n_samples = len(corrupted) // len(clean)
    repeated = [tensor.repeat_interleave(n_samples, 0) for tensor in (clean, answers)]
    corrupted_outcomes = answer_outcomes(model, corrupted, repeated[1]).cpu()
    effects = restore_states(model, repeated[0], corrupted, repeated[1], states, batch_tokens=batch_tokens)
    # Average over noise samples.
    effects = (effects - corrupted_outcomes[:, None]).unflatten(0, (-1, n_samples)).mean(1)
    corrupted_outcomes = corrupted_outcomes.unflatten(0, (-1, n_samples)).mean(1)
    clean_outcomes = answer_outcomes(model, clean, answers).cpu()
    tables = clean_outcomes.tolist(), corrupted_outcomes.tolist(), effects.tolist()
    for pair, clean_outcome, corrupted_outcome, state_effects in zip(group, *tables, strict=True):
        texts = [tokenizer.decode([token]) for token in pair.ids]
        for state, (probability, logit_diff) in zip(states, state_effects, strict=True):
            yield {
                "fact_id": pair.fact_id,
                "relation": pair.relation,
                "probe_id": pair.probe_id,
                "n_target_tokens": pair.n_target_tokens,
                "corruption": corruption,
                "component": state.component,
                "window": state.window,
                "token_role": pair.roles[state.position],
                "position": state.position,
                "token": texts[state.position],
                "layer": state.layer,
                "clean_probability": clean_outcome[0],
                "corrupted_probability": corrupted_outcome[0],
                "clean_logit_diff": clean_outcome[1],
                "corrupted_logit_diff": corrupted_outcome[1],
                "indirect_effect": probability,
                "indirect_effect_logit_diff": logit_diff,
            }


def corrupt_inputs(model: PreTrainedModel, group: Sequence[PromptPair], corruption: str, settings: Tracing) -> Tensor:
    """Embeddings of the corrupted runs, (pair · sample, position, d_model); only noise has several samples.

    ``replacement`` substitutes a subject with a different answer, ``same_answer`` a subject with the same answer.
    ``noise`` adds Gaussian noise to the embeddings of the subject's tokens, with a standard deviation of
    ``settings.noise_level`` times the standard deviation of all embeddings (Meng et al. 2022, part 2.1).
    """
    if corruption == "replacement":
        return embed_tokens(model, stack_ids([pair.donor_ids for pair in group]))
    if corruption == "same_answer":
        return embed_tokens(model, stack_ids([pair.same_answer_ids or () for pair in group]))
    # Some architectures rescale the embedding table, so measure the output of the embedding.
    all_ids = torch.arange(model.get_input_embeddings().num_embeddings)
    noise_std = settings.noise_level * embed_tokens(model, all_ids).std()
    clean = embed_tokens(model, stack_ids([pair.ids for pair in group])).repeat_interleave(settings.noise_samples, 0)
    for i, pair in enumerate(group):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed}.{pair.probe_id}".encode()))
        noise = torch.randn(settings.noise_samples, len(pair.subject), clean.shape[2], generator=generator)
        clean[i * settings.noise_samples : (i + 1) * settings.noise_samples, list(pair.subject)] += (
            noise_std * noise.to(clean)
        )
    return clean


def _excluded_facts(
    probes: pd.DataFrame, world: World, pairs: Sequence[PromptPair], reasons: dict[str, str]
) -> pd.DataFrame:
    """Panel facts without any traceable probe, with the reason."""
    traced = {pair.fact_id for pair in pairs}
    rows = probes[~probes["fact_id"].isin(traced)].drop_duplicates("fact_id")[["fact_id", "probe_id"]]
    rows = rows.merge(world.facts[["fact_id", "relation"]], on="fact_id")
    rows["exclusion_reason"] = rows["probe_id"].map(reasons)
    for row in rows.itertuples():
        logging.warning("%s is not traced: %s", row.fact_id, row.exclusion_reason)
    return rows
