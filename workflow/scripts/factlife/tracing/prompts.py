"""Pairs of prompts that differ in the subject alone, and what each token of a prompt is for."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from factlife.recall.score import AnswerTokens
from factlife.world import World

ROLES = ("before", "subject_first", "subject_middle", "subject_last", "relation", "last")


class TracingError(ValueError):
    """What was to be traced cannot be; the text says why."""


@dataclass(frozen=True)
class PromptPair:
    """A prompt, and the same prompt about somebody else.

    Attributes:
        probe_id: of the probe that asks.
        fact_id: of the fact that the prompt asks for.
        relation: of the fact.
        template: of the probe.
        ids: tokens of the prompt.
        donor_ids: tokens of the prompt about another subject, whose answer is another; as many.
        same_answer_ids: tokens of the prompt about another subject whose answer is the same, or None.
        answer: first token of the value.
        donor_answer: first token of the other subject's value.
        n_target_tokens: how many tokens the value has.
        subject: positions of the subject's tokens.
    """

    probe_id: str
    fact_id: str
    relation: str
    template: str
    ids: tuple[int, ...]
    donor_ids: tuple[int, ...]
    same_answer_ids: tuple[int, ...] | None
    answer: int
    donor_answer: int
    n_target_tokens: int
    subject: range

    @property
    def roles(self) -> list[str]:
        """Role of each token, one of ``ROLES``; a subject of one token is its own last."""
        return token_roles(len(self.ids), self.subject)


def token_roles(length: int, subject: range) -> list[str]:
    """Role of each of a prompt's tokens: before, first, middle and last of the subject, relation, last."""
    roles = ["before"] * subject.start + ["subject_middle"] * len(subject)
    roles += ["relation"] * (length - len(roles))
    roles[-1] = "last"
    roles[subject.start] = "subject_first"
    roles[subject.stop - 1] = "subject_last"
    return roles


def subject_positions(tokenizer: Any, prompt: str, name: str) -> range:
    """Positions of the tokens that write a name in a prompt.

    Raises:
        TracingError: the name is not in the prompt.
    """
    if (start := prompt.find(name)) < 0:
        raise TracingError(f"the subject {name!r} is not found in its prompt {prompt!r}")
    end = start + len(name)
    spans = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    places = [place for place, (left, right) in enumerate(spans) if left < end and right > max(left, start)]
    return range(places[0], places[-1] + 1)


def make_prompt_pairs(
    tokenizer: Any,
    world: World,
    probes: pd.DataFrame,
    *,
    donors: Collection[str] | None = None,
    seed: int = 0,
) -> tuple[list[PromptPair], dict[str, str]]:
    """Pair prompts with prompts about other subjects (symmetric token replacement, Zhang and Nanda 2024).

    Args:
        tokenizer: of the model that is asked.
        world: has the subjects' names and values.
        probes: the prompts, rows of the world's probes.
        donors: ids of the entities among whom the other subject is drawn; all who are taught if not given.
        seed: of the draws.

    Returns:
        A pair for each probe that can have one; and for each that cannot, why, by ``probe_id``.

    Raises:
        TracingError: a prompt does not name its subject.
    """
    answers = AnswerTokens(tokenizer)
    facts = world.facts.merge(world.entities[["entity_id", "name"]], on="entity_id")
    taught = facts[facts["seen"] & (True if donors is None else facts["entity_id"].isin(donors))]
    by_relation = {relation: rows for relation, rows in taught.groupby("relation")}
    facts = facts.set_index("fact_id")
    pairs, left_out = [], {}
    for probe in probes.itertuples():
        fact = facts.loc[probe.fact_id]
        ids, target = tuple(tokenizer(probe.prompt)["input_ids"]), answers.encode_after(probe.prompt, probe.target)
        subject = subject_positions(tokenizer, probe.prompt, fact["name"])
        if not target:
            left_out[probe.probe_id] = f"the tokenizer cannot write {probe.target!r} after the prompt"
            continue
        others = by_relation.get(fact["relation"], taught.head(0))
        others = others[others["entity_id"] != fact["entity_id"]].sample(
            frac=1, random_state=random.Random(f"{seed}.{probe.probe_id}").getrandbits(32)
        )
        found: dict[bool, tuple[tuple[int, ...], int]] = {}
        for other in others.itertuples():
            wanted = answers.encode(other.value)
            same = other.value == probe.target
            if same in found or (not same and wanted[0] == target[0]):
                continue
            prompt = probe.prompt.replace(fact["name"], other.name, 1)
            theirs = tuple(tokenizer(prompt)["input_ids"])
            if len(theirs) == len(ids) and subject_positions(tokenizer, prompt, other.name) == subject:
                found[same] = (theirs, wanted[0])
                if len(found) == 2:
                    break
        if False not in found:
            left_out[probe.probe_id] = (
                f"no other subject has a name of {len(subject)} tokens and an answer that begins otherwise"
            )
            continue
        pairs.append(
            PromptPair(
                probe_id=probe.probe_id,
                fact_id=probe.fact_id,
                relation=fact["relation"],
                template=probe.template,
                ids=ids,
                donor_ids=found[False][0],
                same_answer_ids=found[True][0] if True in found else None,
                answer=target[0],
                donor_answer=found[False][1],
                n_target_tokens=len(target),
                subject=subject,
            )
        )
    return pairs, left_out
