"""Edit requests from a world: the facts to edit, their new values, the probes of each edit, and dropped requests."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from factlife.config.editing import EditRequests, EditSchedule
from factlife.recall.score import AnswerTokens
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = [
    "edit_id", "fact_id", "entity_id", "relation", "subject", "prompt", "target_new", "target_true", "related_fact_ids",
    "related_prompts", "generation_prompts", "reference_fact_ids", "reference_texts", "dropped",
]  # fmt: skip
PROBE_COLUMNS = ["probe_id", "edit_id", "metric", "fact_id", "prompt", "target", "alternative"]

# Metric by kind of the world's probe; all but neighbourhood probes ask for the new value.
METRICS = {
    "multi_hop": "multi_hop",
    "reverse": "reverse",
    "paraphrase": "paraphrase",
    "prefixed": "prefixed",
    "question": "question",
    "negated": "negated",
    "neighbourhood": "neighbourhood",
}


class EditError(ValueError):
    """An edit is not possible; the message says what to change."""


def requests_from_world(world: World, settings: EditRequests, recalled: set[str] | None = None) -> pd.DataFrame:
    """Requests that give facts a counterfactual value, sampled from the values of the same relation.

    Args:
        world: its panel facts come first, in random order, then its other seen facts.
        settings: the number of requests, and the seed.
        recalled: ids of the probes that the model answers; other facts are not edited. None for no restriction.

    Returns:
        One row per request, columns ``COLUMNS``. ``prompt`` is the fact's first training prompt (among ``recalled``);
        ``related_fact_ids`` and ``related_prompts`` are the subject's other facts; ``generation_prompts`` begin the text that
        the model generates; ``reference_fact_ids`` are facts of others with the new value, ``reference_texts`` texts about
        it. ``dropped`` is empty.
    """
    rng = random.Random(f"requests {settings.seed}")
    facts = world.facts[world.facts["seen"]].merge(world.entities[["entity_id", "name"]], on="entity_id")
    facts = facts.assign(order=[(not panel, rng.random()) for panel in facts["panel"]]).sort_values("order")
    forward = world.probes[world.probes["kind"] == "forward"]
    eligible = forward if recalled is None else forward[forward["probe_id"].isin(recalled)]
    prompts, all_prompts = (
        probes.drop_duplicates("fact_id").set_index("fact_id")["prompt"] for probes in (eligible, forward)
    )
    values = {relation: sorted(set(group)) for relation, group in facts.groupby("relation")["value"]}
    with_prompt = facts[facts["fact_id"].isin(all_prompts.index)]
    by_subject = {entity: group["fact_id"].tolist() for entity, group in with_prompt.groupby("entity_id")}
    by_value = {key: group["fact_id"].tolist() for key, group in facts.groupby(["relation", "value"])}
    facts = facts[facts["fact_id"].isin(prompts.index) & (facts["relation"].map(values).str.len() > 1)]
    rows: list[tuple[object, ...]] = []
    for fact in facts.head(settings.count).itertuples():
        related = [fact_id for fact_id in by_subject[fact.entity_id] if fact_id != fact.fact_id]
        target_new = rng.choice([value for value in values[fact.relation] if value != fact.value])
        rows.append((
            fact.fact_id, fact.fact_id, fact.entity_id, fact.relation, fact.name, prompts[fact.fact_id], target_new,
            fact.value, related, [all_prompts[fact_id] for fact_id in related], [fact.name],
            by_value[fact.relation, target_new][:10], [], "",
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def scheduled_requests(requests: pd.DataFrame, schedule: EditSchedule) -> pd.DataFrame:
    """The requests that an editor writes: the first usable ones."""
    usable = requests[requests["dropped"] == ""].head(schedule.n_edits).reset_index(drop=True)
    if len(usable) < schedule.n_edits:
        logging.warning("only %d of %d requests are usable", len(usable), schedule.n_edits)
    return usable


def recalled_probes(recall: pd.DataFrame) -> set[str]:
    """Ids of the probes that a model answers correctly (argmax) at its last checkpoint."""
    last = recall[recall["step"] == recall["step"].max()]
    return set(last["probe_id"][last["exact_match"].fillna(False).astype(bool)])


def validate_requests(requests: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """The requests with the reason why one is unusable in ``dropped``; the log counts them.

    A usable request has a target, a prompt that contains its subject, a pair of subject and relation that no earlier request
    has, and a target that differs from the old value and that the tokenizer can write after the prompt.
    """
    requests = requests.assign(
        dropped=[_drop_reason(request, AnswerTokens(tokenizer)) for request in requests.itertuples()]
    )
    is_duplicate = requests[requests["dropped"] == ""].duplicated(["subject", "relation"])
    requests.loc[is_duplicate[is_duplicate].index, "dropped"] = "another request has this subject and relation"
    for reason, count in requests["dropped"][requests["dropped"] != ""].value_counts().items():
        logging.warning("%d of %d requests are dropped: %s", count, len(requests), reason)
    if not (requests["dropped"] == "").any():
        raise EditError(f"no request is usable; the first: {requests['dropped'].iloc[0] if len(requests) else 'none'}")
    return requests


def _drop_reason(request: Any, answers: AnswerTokens) -> str:
    if not request.target_new.strip():
        return "the target is empty"
    if not request.subject.strip() or request.subject not in request.prompt:
        return "the subject is not in the prompt"
    if request.target_new == request.target_true:
        return "the target is the old value"
    if not answers.encode_after(request.prompt, request.target_new):
        return "the tokenizer cannot write the target after the prompt"
    return ""


def probes_from_world(requests: pd.DataFrame, world: World, recalled: set[str] | None = None) -> pd.DataFrame:
    """The probes of every request, and of all other facts.

    Args:
        requests: of this world.
        world: source of the probes.
        recalled: ids of the probes that the model answers; neighbourhood and recall probes are restricted to these. None
            for no restriction.

    Returns:
        One row per probe, columns ``PROBE_COLUMNS``: ``target`` is the correct answer after editing, ``alternative`` the
        answer to compare it with (empty for none), and ``fact_id`` the fact that the probe asks for, so that probes of facts
        that another request edits can be left out. ``efficacy`` is the request's own prompt; ``distractor`` puts the
        request's new statement before a neighbour's prompt; ``recall`` asks for every seen fact and belongs to no request.
        Portability: ``multi_hop`` asks for a consequence of the new value, if it differs from the consequence of the old
        one, and ``reverse`` asks for the subject by the new value.
    """
    return pd.DataFrame(_probes(requests, world, recalled), columns=PROBE_COLUMNS)


def _probes(requests: pd.DataFrame, world: World, recalled: set[str] | None) -> Iterator[tuple]:
    probes_of = dict(list(world.probes.groupby("fact_id")))
    facts, edited = world.facts.set_index("fact_id"), set(requests["fact_id"])
    value_ids = world.facts.drop_duplicates(["relation", "value"]).set_index(["relation", "value"])["value_id"]
    for request in requests[requests["dropped"] == ""].itertuples():
        edit_id, fact_id, new, old = request.edit_id, request.fact_id, request.target_new, request.target_true
        yield f"{edit_id}.efficacy", edit_id, "efficacy", fact_id, request.prompt, new, old
        for probe in probes_of[fact_id].itertuples():
            metric, probe_id, prompt = METRICS.get(probe.kind), probe.probe_id, probe.prompt
            if metric == "neighbourhood":
                if recalled is not None and probe_id not in recalled:
                    continue
                neighbour, statement = probe.supporting_fact_ids[-1], f"{request.prompt} {new} . "
                yield probe_id, edit_id, metric, neighbour, prompt, probe.target, new
                distractor = statement + prompt
                yield f"{probe_id}.distractor", edit_id, "distractor", neighbour, distractor, probe.target, new
            elif metric == "multi_hop":
                # The second fact of the chain is about the old value; its counterpart is about the new one.
                second = probe.supporting_fact_ids[-1]
                counterpart = f"{value_ids[request.relation, new]}.{facts['relation'][second]}"
                if counterpart in facts.index and not edited & {second, counterpart}:
                    target = facts["value"][counterpart]
                    if target != probe.target:
                        yield probe_id, edit_id, metric, fact_id, prompt, target, probe.target
            elif metric == "reverse":
                if old in prompt:
                    yield probe_id, edit_id, metric, fact_id, prompt.replace(old, new, 1), request.subject, ""
            elif metric:
                yield probe_id, edit_id, metric, fact_id, prompt, new, old
    seen_facts = set(world.facts["fact_id"][world.facts["seen"]])
    forward = world.probes[(world.probes["kind"] == "forward") & world.probes["fact_id"].isin(seen_facts)]
    forward = forward if recalled is None else forward[forward["probe_id"].isin(recalled)]
    for probe in forward.drop_duplicates("fact_id").itertuples():
        yield f"{probe.probe_id}.recall", "", "recall", probe.fact_id, probe.prompt, probe.target, ""


def usable_probes(probes: pd.DataFrame, edited: set[str], edit_ids: set[str]) -> pd.DataFrame:
    """Probes of some edits, and of recall, except those that ask for a fact which another request has ``edited``."""
    is_own = probes["edit_id"].isin(edit_ids) | (probes["edit_id"] == "")
    is_edited_by_other = probes["fact_id"].isin(edited) & (probes["fact_id"] != probes["edit_id"])
    return probes[is_own & ~is_edited_by_other].reset_index(drop=True)


def separate_same_subject(probes: pd.DataFrame, subjects: set[str]) -> pd.DataFrame:
    """Probes in which recall of facts about edited subjects has a metric of its own, ``same_subject``."""
    is_same_subject = (probes["metric"] == "recall") & probes["fact_id"].str.split(".").str[0].isin(subjects)
    return probes.assign(metric=probes["metric"].mask(is_same_subject, "same_subject"))
