"""Pairs of prompts that differ only in the subject, and the role of each token."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from factlife.recall.score import AnswerTokens
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("prefix", "subject_first", "subject_middle", "subject_last", "relation", "last")


class TracingError(ValueError):
    """The facts or states cannot be traced; the message gives the reason."""


@dataclass(frozen=True)
class PromptPair:
    """A prompt, and the same prompt about another subject.

    Attributes:
        probe_id: id of the probe.
        fact_id: id of the fact that the prompt asks for.
        relation: relation of the fact.
        template: template of the probe.
        ids: tokens of the prompt.
        donor_ids: tokens of the prompt about a subject with a different answer; same length.
        same_answer_ids: tokens of the prompt about another subject with the same answer, or None.
        answer: first token of the value.
        donor_answer: first token of the other subject's value.
        n_target_tokens: number of tokens of the value.
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
        """Role of each token, one of ``ROLES``; a one-token subject counts as ``subject_last``."""
        return token_roles(len(self.ids), self.subject)


def token_roles(length: int, subject: range) -> list[str]:
    """Role of each token of a prompt: prefix; first, middle and last token of the subject; relation; last token."""
    roles = ["prefix"] * subject.start + ["subject_middle"] * len(subject)
    roles += ["relation"] * (length - len(roles))
    roles[-1] = "last"
    roles[subject.start] = "subject_first"
    roles[subject.stop - 1] = "subject_last"
    return roles


def subject_positions(tokenizer: PreTrainedTokenizerBase, prompt: str, name: str) -> range:
    """Positions of the tokens of a name in a prompt.

    Raises:
        TracingError: the prompt does not contain the name.
    """
    if (start := prompt.find(name)) < 0:
        raise TracingError(f"the subject {name!r} is not found in its prompt {prompt!r}")
    end = start + len(name)
    spans = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    positions = [
        position
        for position, (token_start, token_end) in enumerate(spans)
        if token_start < end and token_end > max(token_start, start)
    ]
    return range(positions[0], positions[-1] + 1)


def make_prompt_pairs(
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    probes: pd.DataFrame,
    *,
    donors: Collection[str] | None = None,
    seed: int = 0,
) -> tuple[list[PromptPair], dict[str, str]]:
    """Pair prompts with prompts about other subjects (symmetric token replacement, Zhang and Nanda 2024).

    Args:
        tokenizer: the model's tokenizer.
        world: provides the names and values of subjects.
        probes: the prompts, rows of the world's probes.
        donors: ids of entities that may replace the subject; by default all whose facts the corpus states.
        seed: random seed for the choice of replacements.

    Returns:
        Pairs of all probes that have a suitable replacement; reasons for the other probes, by ``probe_id``.

    Raises:
        TracingError: a prompt does not name its subject.
    """
    answers = AnswerTokens(tokenizer)
    facts = world.facts.merge(world.entities[["entity_id", "name"]], on="entity_id")
    seen_facts = facts[facts["seen"] & (True if donors is None else facts["entity_id"].isin(donors))]
    by_relation = {relation: rows for relation, rows in seen_facts.groupby("relation")}
    facts = facts.set_index("fact_id")
    pairs, exclusion_reasons = [], {}
    for probe in probes.itertuples():
        fact = facts.loc[probe.fact_id]
        ids, target = tuple(tokenizer(probe.prompt)["input_ids"]), answers.encode_after(probe.prompt, probe.target)
        subject = subject_positions(tokenizer, probe.prompt, fact["name"])
        if not target:
            exclusion_reasons[probe.probe_id] = f"the tokenizer cannot write {probe.target!r} after the prompt"
            continue
        candidates = by_relation.get(fact["relation"], seen_facts.head(0))
        candidates = candidates[candidates["entity_id"] != fact["entity_id"]].sample(
            frac=1, random_state=random.Random(f"{seed}.{probe.probe_id}").getrandbits(32)
        )
        counterparts: dict[bool, tuple[tuple[int, ...], int]] = {}
        for candidate in candidates.itertuples():
            donor_answer_ids = answers.encode(candidate.value)
            is_same_answer = candidate.value == probe.target
            if is_same_answer in counterparts or (not is_same_answer and donor_answer_ids[0] == target[0]):
                continue
            prompt = probe.prompt.replace(fact["name"], candidate.name, 1)
            donor_ids = tuple(tokenizer(prompt)["input_ids"])
            if len(donor_ids) == len(ids) and subject_positions(tokenizer, prompt, candidate.name) == subject:
                counterparts[is_same_answer] = (donor_ids, donor_answer_ids[0])
                if len(counterparts) == 2:
                    break
        if False not in counterparts:
            exclusion_reasons[probe.probe_id] = (
                f"no other subject has a name of {len(subject)} tokens and an answer with a different first token"
            )
            continue
        pairs.append(
            PromptPair(
                probe_id=probe.probe_id,
                fact_id=probe.fact_id,
                relation=fact["relation"],
                template=probe.template,
                ids=ids,
                donor_ids=counterparts[False][0],
                same_answer_ids=counterparts[True][0] if True in counterparts else None,
                answer=target[0],
                donor_answer=counterparts[False][1],
                n_target_tokens=len(target),
                subject=subject,
            )
        )
    return pairs, exclusion_reasons
