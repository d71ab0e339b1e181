"""Causal tracing: how much of an answer comes back when one place of a corrupted run is restored."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from factlife.config.tracing import Tracing
from factlife.models.anatomy import get_anatomy
from factlife.tracing.patching import RestoredState, answer_outcomes, embed_tokens, restore_states, stack_ids
from factlife.tracing.prompts import PromptPair, make_prompt_pairs
from factlife.world import World

COLUMNS = [
    "fact_id", "relation", "probe_id", "known", "n_target_tokens", "exclusion_reason", "corruption", "component", "window",
    "token_role", "position", "token", "layer", "clean_probability", "corrupted_probability", "clean_logit_diff",
    "corrupted_logit_diff", "indirect_effect", "indirect_effect_logit_diff",
]  # fmt: skip


def trace_facts(model: Any, tokenizer: Any, world: World, settings: Tracing) -> pd.DataFrame:
    """Trace the panel's facts, those that the model knows first.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        world: its panel facts are traced, each by the forward probe that the model answers, if any.
        settings: what is corrupted and restored.

    Returns:
        One row per fact, corruption, component, window, position from the subject's first token on, and layer (what
        comes before the subject is the same in both runs). Effects are in probability of the answer's first token and
        in its logit minus the other answer's; an indirect effect is the restored run minus the corrupted one, with
        noise the mean over samples. A fact that cannot be traced has one row that gives the reason in ``exclusion_reason``.
    """
    panel = world.facts.loc[world.facts["panel"], "fact_id"]
    probes = world.probes[(world.probes["kind"] == "forward") & world.probes["fact_id"].isin(panel)]
    pairs, left_out = make_prompt_pairs(tokenizer, world, probes, seed=settings.seed)
    chosen, known = _choose(model, pairs, settings.facts, settings.batch_tokens)
    rows: list[dict[str, Any]] = []
    for corruption in settings.corruptions:
        with_run = [pair for pair in chosen if corruption != "same_answer" or pair.same_answer_ids]
        for group in _groups(with_run):
            rows += _rows(model, tokenizer, group, corruption, settings)
    frame = pd.concat([pd.DataFrame(rows), _left_out(probes, world, pairs, left_out)], ignore_index=True)
    frame["known"] = frame["probe_id"].map(known).astype("boolean")
    whole = {"window": "Int64", "position": "Int64", "layer": "Int64", "n_target_tokens": "Int64"}
    return frame.reindex(columns=COLUMNS).astype(whole)


def _choose(
    model: Any, pairs: Sequence[PromptPair], facts: int, batch_tokens: int
) -> tuple[list[PromptPair], dict[str, bool]]:
    """A pair for each fact, one that the model knows if there is one; known facts first, relations in turn."""
    known = {}
    for group in _by_length(pairs):
        ids = stack_ids([pair.ids for pair in group])
        for batch in torch.arange(len(ids)).split(max(1, batch_tokens // ids.shape[1])):
            with torch.inference_mode():
                said = model(ids[batch].to(model.device), use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
            for number, token in zip(batch.tolist(), said.tolist(), strict=True):
                known[group[number].probe_id] = token == group[number].answer
    best: dict[str, PromptPair] = {}
    for pair in pairs:
        if pair.fact_id not in best or (known[pair.probe_id] and not known[best[pair.fact_id].probe_id]):
            best[pair.fact_id] = pair
    turn: dict[tuple[str, bool], int] = defaultdict(int)
    order = {}
    for pair in best.values():
        knows = known[pair.probe_id]
        order[pair.fact_id] = (not knows, turn[pair.relation, knows], pair.relation)
        turn[pair.relation, knows] += 1
    return sorted(best.values(), key=lambda pair: order[pair.fact_id])[:facts], known


def _by_length(pairs: Sequence[PromptPair]) -> Iterator[list[PromptPair]]:
    found = defaultdict(list)
    for pair in pairs:
        found[len(pair.ids)].append(pair)
    yield from found.values()


def _groups(pairs: Sequence[PromptPair]) -> Iterator[list[PromptPair]]:
    """Pairs of equal length whose subjects begin at the same place: the same cells are restored in all of them."""
    found = defaultdict(list)
    for pair in pairs:
        found[len(pair.ids), pair.subject.start].append(pair)
    yield from found.values()


def restored_states(settings: Tracing, positions: range, n_layers: int) -> list[RestoredState]:
    """All cells: the residual stream at each layer, attention and MLP in windows of each width around each."""
    return [
        RestoredState(component, position, layer, window)
        for component in settings.components
        for window in (settings.windows if component in ("attention", "mlp") else [1])
        for position in positions
        for layer in range(n_layers)
    ]


def _rows(
    model: Any, tokenizer: Any, group: list[PromptPair], corruption: str, settings: Tracing
) -> Iterator[dict[str, Any]]:
    ids = stack_ids([pair.ids for pair in group])
    positions = range(group[0].subject.start, ids.shape[1])
    restored = restored_states(settings, positions, get_anatomy(model).n_layers)
    answers = torch.tensor([[pair.answer, pair.donor_answer] for pair in group]).to(model.device)
    clean = embed_tokens(model, ids)
    corrupted = corrupt_inputs(model, group, corruption, settings)
    samples = len(corrupted) // len(clean)
    repeated = [each.repeat_interleave(samples, 0) for each in (clean, answers)]
    low = answer_outcomes(model, corrupted, repeated[1]).cpu()
    effects = restore_states(model, repeated[0], corrupted, repeated[1], restored, batch_tokens=settings.batch_tokens)
    # Samples of noise are averaged.
    effects = (effects - low[:, None]).unflatten(0, (-1, samples)).mean(1)
    low, high = low.unflatten(0, (-1, samples)).mean(1), answer_outcomes(model, clean, answers).cpu()
    for pair, top, bottom, row in zip(group, high.tolist(), low.tolist(), effects.tolist(), strict=True):
        texts = [tokenizer.decode([token]) for token in pair.ids]
        for cell, (probability, logit) in zip(restored, row, strict=True):
            yield {
                "fact_id": pair.fact_id,
                "relation": pair.relation,
                "probe_id": pair.probe_id,
                "n_target_tokens": pair.n_target_tokens,
                "corruption": corruption,
                "component": cell.component,
                "window": cell.window,
                "token_role": pair.roles[cell.position],
                "position": cell.position,
                "token": texts[cell.position],
                "layer": cell.layer,
                "clean_probability": top[0],
                "corrupted_probability": bottom[0],
                "clean_logit_diff": top[1],
                "corrupted_logit_diff": bottom[1],
                "indirect_effect": probability,
                "indirect_effect_logit_diff": logit,
            }


def corrupt_inputs(model: Any, group: Sequence[PromptPair], corruption: str, settings: Tracing) -> Tensor:
    """What corrupted runs read, (pair · sample, position, d_model); only noise has several samples.

    ``replacement`` puts another subject with another answer in the subject's place, ``same_answer`` one with the same
    answer, and ``noise`` adds Gaussian noise to the embeddings of the subject's tokens, whose standard deviation is
    ``settings.noise_level`` times that of all embeddings (Meng et al. 2022, part 2.1).
    """
    if corruption == "replacement":
        return embed_tokens(model, stack_ids([pair.donor_ids for pair in group]))
    if corruption == "same_answer":
        return embed_tokens(model, stack_ids([pair.same_answer_ids for pair in group]))
    # The scale of what the embedding returns, which in some architectures is not that of its table.
    everything = torch.arange(model.get_input_embeddings().num_embeddings)
    spread = settings.noise_level * embed_tokens(model, everything).std()
    clean = embed_tokens(model, stack_ids([pair.ids for pair in group])).repeat_interleave(settings.noise_samples, 0)
    for number, pair in enumerate(group):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed}.{pair.probe_id}".encode()))
        noise = torch.randn(settings.noise_samples, len(pair.subject), clean.shape[2], generator=generator)
        clean[number * settings.noise_samples : (number + 1) * settings.noise_samples, list(pair.subject)] += (
            spread * noise.to(clean)
        )
    return clean


def _left_out(probes: pd.DataFrame, world: World, pairs: Sequence[PromptPair], reasons: dict[str, str]) -> pd.DataFrame:
    """Panel facts none of whose probes can be traced, with the reason."""
    traced = {pair.fact_id for pair in pairs}
    rows = probes[~probes["fact_id"].isin(traced)].drop_duplicates("fact_id")[["fact_id", "probe_id"]]
    rows = rows.merge(world.facts[["fact_id", "relation"]], on="fact_id")
    rows["exclusion_reason"] = rows["probe_id"].map(reasons)
    for row in rows.itertuples():
        logging.warning("%s is not traced: %s", row.fact_id, row.exclusion_reason)
    return rows
