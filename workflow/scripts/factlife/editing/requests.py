"""Requests: which fact is to become what, what is asked about each, and what is dropped and why."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

import pandas as pd

from factlife.config.editing import EditRequests, EditSchedule
from factlife.recall.score import AnswerTokens
from factlife.world import World

COLUMNS = [
    "edit_id", "fact_id", "entity_id", "relation", "subject", "prompt", "target_new", "target_true", "related_fact_ids",
    "related_prompts", "generation_prompts", "reference_fact_ids", "reference_texts", "dropped",
]  # fmt: skip
PROBE_COLUMNS = ["probe_id", "edit_id", "metric", "fact_id", "prompt", "target", "alternative"]

# What a metric is called, by the kind of the world's probe; all but the neighbours' are asked for the new value.
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
    """An edit cannot be made; the text says what to change."""


def requests_from_world(world: World, settings: EditRequests, recalled: set[str] | None = None) -> pd.DataFrame:
    """Requests to give facts a counterfactual value, drawn from the values of the same relation.

    Args:
        world: its panel facts come first, in random order, then other facts that were taught.
        settings: how many, and the seed.
        recalled: probes that the model answers; others give no request. None for no such condition.

    Returns:
        One row per request, columns ``COLUMNS``. ``prompt`` is the fact's first trained prompt, of those that are ``recalled``;
        ``related_fact_ids`` and ``related_prompts`` are the subject's other facts. ``generation_prompts`` begin texts that the model
        is to write, ``reference_fact_ids`` are others' facts with the new value, ``reference_texts`` texts about it. ``dropped`` is
        empty.
    """
    rng = random.Random(f"requests {settings.seed}")
    facts = world.facts[world.facts["seen"]].merge(world.entities[["entity_id", "name"]], on="entity_id")
    facts = facts.assign(order=[(not panel, rng.random()) for panel in facts["panel"]]).sort_values("order")
    forward = world.probes[world.probes["kind"] == "forward"]
    told = forward if recalled is None else forward[forward["probe_id"].isin(recalled)]
    asked, every = (probes.drop_duplicates("fact_id").set_index("fact_id")["prompt"] for probes in (told, forward))
    pools = {relation: sorted(set(group)) for relation, group in facts.groupby("relation")["value"]}
    named = facts[facts["fact_id"].isin(every.index)]
    by_subject = {entity: group["fact_id"].tolist() for entity, group in named.groupby("entity_id")}
    alike = {found: group["fact_id"].tolist() for found, group in facts.groupby(["relation", "value"])}
    facts = facts[facts["fact_id"].isin(asked.index) & (facts["relation"].map(pools).str.len() > 1)]
    rows = []
    for fact in facts.head(settings.count).itertuples():
        related = [other for other in by_subject[fact.entity_id] if other != fact.fact_id]
        target = rng.choice([value for value in pools[fact.relation] if value != fact.value])
        rows.append((
            fact.fact_id, fact.fact_id, fact.entity_id, fact.relation, fact.name, asked[fact.fact_id], target, fact.value,
            related, [every[other] for other in related], [fact.name], alike[fact.relation, target][:10], [], "",
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def scheduled_requests(requests: pd.DataFrame, schedule: EditSchedule) -> pd.DataFrame:
    """The requests that an editor writes: the first ones that can be used."""
    found = requests[requests["dropped"] == ""].head(schedule.n_edits).reset_index(drop=True)
    if len(found) < schedule.n_edits:
        logging.warning("only %d of %d requests can be used", len(found), schedule.n_edits)
    return found


def recalled_probes(recall: pd.DataFrame) -> set[str]:
    """Probes that a model answers at the end, by argmax."""
    last = recall[recall["step"] == recall["step"].max()]
    return set(last["probe_id"][last["exact_match"].fillna(False).astype(bool)])


def validate_requests(requests: pd.DataFrame, tokenizer: Any) -> pd.DataFrame:
    """The requests with the reason why one cannot be used in ``dropped``; the log counts them.

    A request needs a target, its subject in its prompt, a subject and relation that no earlier request has, and a target
    that differs from the old value and that the tokenizer can write after the prompt.
    """
    requests = requests.assign(dropped=[_drop_reason(row, AnswerTokens(tokenizer)) for row in requests.itertuples()])
    again = requests[requests["dropped"] == ""].duplicated(["subject", "relation"])
    requests.loc[again[again].index, "dropped"] = "another request has this subject and relation"
    for reason, number in requests["dropped"][requests["dropped"] != ""].value_counts().items():
        logging.warning("%d of %d requests are dropped: %s", number, len(requests), reason)
    if not (requests["dropped"] == "").any():
        raise EditError(
            f"no request can be used; the first: {requests['dropped'].iloc[0] if len(requests) else 'none'}"
        )
    return requests


def _drop_reason(row: Any, answers: AnswerTokens) -> str:
    if not row.target_new.strip():
        return "the target is empty"
    if not row.subject.strip() or row.subject not in row.prompt:
        return "the subject is not in the prompt"
    if row.target_new == row.target_true:
        return "the target is the old value"
    if not answers.encode_after(row.prompt, row.target_new):
        return "the tokenizer cannot write the target after the prompt"
    return ""


def probes_from_world(requests: pd.DataFrame, world: World, recalled: set[str] | None = None) -> pd.DataFrame:
    """What is asked about every request, and about all else.

    Args:
        requests: of this world.
        world: whose probes are used.
        recalled: probes that the model answers: neighbours and other facts are asked about with these only. None for no
            such condition.

    Returns:
        One row per question, columns ``PROBE_COLUMNS``: the answer that is ``target`` after editing, the ``alternative`` that
        it is compared with (empty for none), and the fact that it is about (``fact_id``): a probe about an edited fact of another
        request is to be left out. ``efficacy`` is the request's own prompt; ``distractor`` puts the request's own new
        statement before a neighbour's prompt; ``recall`` asks every taught fact and belongs to no request. Portability:
        ``multi_hop`` asks what follows from the new value, where that differs from what followed from the old one, and
        ``reverse`` asks for the subject by the new value.
    """
    return pd.DataFrame(_probes(requests, world, recalled), columns=PROBE_COLUMNS)


def _probes(requests: pd.DataFrame, world: World, answered: set[str] | None) -> Iterator[tuple]:
    by_fact = dict(list(world.probes.groupby("fact_id")))
    known, edited = world.facts.set_index("fact_id"), set(requests["fact_id"])
    ids = world.facts.drop_duplicates(["relation", "value"]).set_index(["relation", "value"])["value_id"]
    for row in requests[requests["dropped"] == ""].itertuples():
        new, old = row.target_new, row.target_true
        yield f"{row.edit_id}.efficacy", row.edit_id, "efficacy", row.fact_id, row.prompt, new, old
        for probe in by_fact[row.fact_id].itertuples():
            metric = METRICS.get(probe.kind)
            if metric == "neighbourhood":
                if answered is not None and probe.probe_id not in answered:
                    continue
                about, said = probe.supporting_fact_ids[-1], f"{row.prompt} {new} . "
                yield probe.probe_id, row.edit_id, metric, about, probe.prompt, probe.target, new
                yield (
                    f"{probe.probe_id}.distractor",
                    row.edit_id,
                    "distractor",
                    about,
                    said + probe.prompt,
                    probe.target,
                    new,
                )
            elif metric == "multi_hop":
                # The second fact of the chain, which is about the old value, and its like about the new one.
                second = probe.supporting_fact_ids[-1]
                instead = f"{ids[row.relation, new]}.{known['relation'][second]}"
                if instead in known.index and not edited & {second, instead}:
                    wanted = known["value"][instead]
                    if wanted != probe.target:
                        yield probe.probe_id, row.edit_id, metric, row.fact_id, probe.prompt, wanted, probe.target
            elif metric == "reverse":
                if old in probe.prompt:
                    yield (
                        probe.probe_id,
                        row.edit_id,
                        metric,
                        row.fact_id,
                        probe.prompt.replace(old, new, 1),
                        row.subject,
                        "",
                    )
            elif metric:
                yield probe.probe_id, row.edit_id, metric, row.fact_id, probe.prompt, new, old
    taught = set(world.facts["fact_id"][world.facts["seen"]])
    asked = world.probes[(world.probes["kind"] == "forward") & world.probes["fact_id"].isin(taught)]
    asked = asked if answered is None else asked[asked["probe_id"].isin(answered)]
    for probe in asked.drop_duplicates("fact_id").itertuples():
        yield f"{probe.probe_id}.recall", "", "recall", probe.fact_id, probe.prompt, probe.target, ""


def usable_probes(probes: pd.DataFrame, edited: set[str], asked: set[str]) -> pd.DataFrame:
    """Probes of the edits that are ``asked`` about, and of recall, without those about another fact that is ``edited``."""
    own = probes["edit_id"].isin(asked) | (probes["edit_id"] == "")
    about_other = probes["fact_id"].isin(edited) & (probes["fact_id"] != probes["edit_id"])
    return probes[own & ~about_other].reset_index(drop=True)


def separate_same_subject(probes: pd.DataFrame, subjects: set[str]) -> pd.DataFrame:
    """Recall of facts whose subject is edited is a metric of its own."""
    of_edited = (probes["metric"] == "recall") & probes["fact_id"].str.split(".").str[0].isin(subjects)
    return probes.assign(metric=probes["metric"].mask(of_edited, "same_subject"))
