"""World `people`: invented people with six relations, and templates from a small grammar.

Held-out templates combine parts that all occur in training, so failing on them means failing to generalise rather than
lacking a word.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator

import pandas as pd

from factlife.config.worlds import Levels, PeopleWorld, Relation, Zipf
from factlife.world import names
from factlife.world.tables import World, WorldError, check_world
from factlife.world.templates import Template, held_out_templates, make_probe, train_templates

# Links end in words that relations share, so the last word before a value does not reveal the relation.
# No link is a prefix of another, so only the value can follow.
_PLACE = ["in the city of", "in the town of", "in the streets of"]
_GRAMMAR = {
    "birth_date": (["was born", "was delivered", "was welcomed"], ["on the day of", "on the date of", "on the morning of"], ["birth date", "date of birth", "first day"]),
    "birth_city": (["was born", "was raised", "was brought up"], _PLACE, ["birth city", "place of birth", "home town"]),
    "university": (["was taught", "was educated", "was a student"], ["at the school of", "at the college of", "at the campus of"], ["university", "place of study", "school"]),
    "major": (["was trained", "was examined", "was schooled"], ["in the subject of", "in the field of", "in the discipline of"], ["major", "field of study", "subject"]),
    "employer": (["is employed", "is paid", "is hired"], ["by the firm of", "by the company of", "by the owners of"], ["employer", "company", "firm"]),
    "working_city": (["is employed", "is posted", "is busy"], _PLACE, ["working city", "place of work", "office town"]),
    "region": (["is found", "is situated", "is counted"], ["in the region of", "in the county of", "in the province of"], ["region", "part of the country", "county"]),
}  # fmt: skip
_NOUN_FRAMES = ["The {noun} of {{name}} is {{value}} .", "As for {{name}} , the {noun} is {{value}} .", "{{name}} gives as {noun} : {{value}} ."]  # fmt: skip
_REVERSE_FRAMES = ["{{value}} is the {noun} of {{name}} .", "{{value}} as {noun} belongs to {{name}} ."]
_HELD_OUT = {(0, 1), (2, 2)}
PRONOUN = "This person"


@functools.cache
def relation_templates(relation: str) -> list[Template]:
    """All templates of a relation: verb × link, noun × frame, and value-first noun × frame."""
    verbs, links, nouns = _GRAMMAR[relation]
    templates = [
        Template(f"verb{v}-link{n}", f"{{name}} {verbs[v]} {links[n]} {{value}} .", (v, n) in _HELD_OUT)
        for v, n in itertools.product(range(3), range(3))
    ]
    templates += [
        Template(f"noun{n}-frame{f}", _NOUN_FRAMES[f].format(noun=nouns[n]), (n, f) in _HELD_OUT)
        for n, f in itertools.product(range(3), range(3))
    ]
    templates += [
        Template(f"noun{n}-reverse{f}", _REVERSE_FRAMES[f].format(noun=nouns[n]), (n, f) in _HELD_OUT)
        for n, f in itertools.product(range(3), range(2))
    ]
    return templates


@functools.cache
def verb_templates(relation: str) -> list[Template]:
    """The trained verb templates; their part after the name can be joined with others."""
    return [template for template in train_templates(relation_templates(relation)) if template.id.startswith("verb")]


@functools.cache
def negated_templates(relation: str) -> list[Template]:
    """The trained verb templates, negated."""
    return [
        Template(f"not-{template.id}", template.text.replace(" was ", " was not ", 1).replace(" is ", " is not ", 1))
        for template in verb_templates(relation)
    ]


def question_template(relation: str) -> Template:
    """The question about a relation, with its answer."""
    return Template("question", f"Question : what is the {_GRAMMAR[relation][2][0]} of {{name}} ? Answer : {{value}} .")


def build_world(settings: PeopleWorld) -> World:
    """Generate people, values and probes.

    Raises:
        WorldError: the settings need more names, values or panel people than exist.
    """
    rng = random.Random(f"people {settings.seed}")
    n_people = settings.people + settings.unseen
    ids = [f"p{index:0{len(str(n_people - 1))}d}" for index in range(n_people)]
    people = pd.DataFrame(
        {
            "entity_id": ids,
            "name": names.person_names(settings.names, n_people, rng),
            "kind": "person",
            "split": "unseen",
            "exposures": 0,
        }
    )
    seen_indices = rng.sample(range(n_people), settings.people)
    n_qa = round(settings.qa_fraction * settings.people)
    people.loc[seen_indices, "exposures"] = _exposures(settings)
    people.loc[seen_indices, "split"] = "qa_heldout"
    people.loc[rng.sample(seen_indices, n_qa), "split"] = "qa_train"
    # A generator of its own (its seed keeps an old name): the rest of the world does not depend on `new_fraction`.
    new_indices = random.Random(f"late people {settings.seed}").sample(
        seen_indices, round(settings.new_fraction * settings.people)
    )
    people["new"] = people.index.isin(new_indices)

    facts = pd.concat([_facts(people, relation, settings, rng) for relation in settings.relations])
    facts["panel"] = facts["entity_id"].isin(_panel(people, settings))
    entities = people
    if settings.regions and "birth_city" in settings.relations:
        cities, region_facts = _cities(facts, settings, rng)
        entities, facts = pd.concat([people, cities]), pd.concat([facts, region_facts])
    entities, facts = entities.reset_index(drop=True), facts.reset_index(drop=True)
    probes = pd.DataFrame(_probes(entities, facts, settings, rng))
    return check_world(World(entities, facts, probes))


def _exposures(settings: PeopleWorld) -> list[int]:
    if isinstance(settings.exposures, Levels):
        return list(itertools.islice(itertools.cycle(settings.exposures.levels), settings.people))
    zipf: Zipf = settings.exposures
    return [
        round(zipf.min_exposures * (settings.people / rank) ** zipf.exponent) for rank in range(1, settings.people + 1)
    ]


def _panel(people: pd.DataFrame, settings: PeopleWorld) -> list[str]:
    """People spread evenly over exposure frequencies."""
    seen_ids = people[people["split"] != "unseen"].sort_values("exposures", kind="stable")["entity_id"].tolist()
    if settings.panel > len(seen_ids):
        raise WorldError(
            f"`panel` is {settings.panel}, but only {len(seen_ids)} people are seen in training; lower `panel`"
        )
    return [seen_ids[index * len(seen_ids) // settings.panel] for index in range(settings.panel)]


def _facts(people: pd.DataFrame, relation: Relation, settings: PeopleWorld, rng: random.Random) -> pd.DataFrame:
    """Facts of a relation: every value equally often, in random order."""
    count = settings.values if isinstance(settings.values, int) else settings.values.get(relation)
    if count is None:
        raise WorldError(f"`values` has no number for {relation}; add one or give one number for all relations")
    pool = names.relation_values(relation, count, rng)
    kind = "city" if relation == "birth_city" and settings.regions else relation
    value_indices = [value_index % len(pool) for value_index in range(len(people))]
    rng.shuffle(value_indices)
    return pd.DataFrame(
        {
            "fact_id": people["entity_id"] + f".{relation}",
            "entity_id": people["entity_id"],
            "relation": relation,
            "value": [pool[value_index] for value_index in value_indices],
            "value_id": [f"{kind.replace('_', '-')}{value_index:03d}" for value_index in value_indices],
            "seen": people["split"] != "unseen",
            "exposures": people["exposures"],
        }
    )


def _cities(facts: pd.DataFrame, settings: PeopleWorld, rng: random.Random) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Birth cities as entities, each in a region."""
    cities = facts[facts["relation"] == "birth_city"].drop_duplicates("value_id").sort_values("value_id")
    regions = names.relation_values("region", settings.regions, rng)
    region_indices = [index % len(regions) for index in range(len(cities))]
    rng.shuffle(region_indices)
    exposures = max(1, round(facts["exposures"][facts["seen"]].mean()))
    entities = pd.DataFrame(
        {
            "entity_id": cities["value_id"],
            "name": cities["value"],
            "kind": "city",
            "split": "qa_heldout",
            "exposures": exposures,
            "new": False,
        }
    )
    region_facts = pd.DataFrame(
        {
            "fact_id": cities["value_id"] + ".region",
            "entity_id": cities["value_id"],
            "relation": "region",
            "value": [regions[index] for index in region_indices],
            "value_id": [f"region{index:03d}" for index in region_indices],
            "seen": True,
            "exposures": exposures,
            "panel": False,
        }
    )
    return entities, region_facts


def _probes(entities: pd.DataFrame, facts: pd.DataFrame, settings: PeopleWorld, rng: random.Random) -> Iterator[dict]:
    names_by_id = dict(zip(entities["entity_id"], entities["name"], strict=True))
    pools = {relation: sorted(group["value"].unique()) for relation, group in facts.groupby("relation", sort=False)}
    seen_facts = facts[facts["seen"]]
    by_relation = {relation: list(group.itertuples()) for relation, group in seen_facts.groupby("relation", sort=False)}
    regions = {fact.entity_id: fact for fact in by_relation.get("region", [])}

    for fact in facts.itertuples():
        subject, relation, candidates = names_by_id[fact.entity_id], fact.relation, pools[fact.relation]
        verb_template = rng.choice(verb_templates(relation))
        noun_template = rng.choice(
            [template for template in train_templates(relation_templates(relation)) if template.id.startswith("noun")]
        )
        if not fact.seen:
            yield make_probe(fact, "unseen", verb_template, verb_template.prompt(name=subject), candidates)
            continue
        for template in (verb_template, noun_template):
            yield make_probe(fact, "forward", template, template.prompt(name=subject), candidates)
        paraphrase = rng.choice(held_out_templates(relation_templates(relation)))
        yield make_probe(fact, "paraphrase", paraphrase, paraphrase.prompt(name=subject), candidates)
        other_fact = rng.choice(
            [
                other_fact
                for other_fact in by_relation[rng.choice(list(pools))]
                if other_fact.entity_id != fact.entity_id
            ]
        )
        prefix = rng.choice(verb_templates(other_fact.relation)).sentence(
            names_by_id[other_fact.entity_id], other_fact.value
        )
        yield make_probe(fact, "prefixed", verb_template, f"{prefix} {verb_template.prompt(name=subject)}", candidates)
        question = question_template(relation)
        yield make_probe(fact, "question", question, question.prompt(name=subject), candidates)
        if relation == "birth_city" and regions:
            hop_template, region_fact = verb_templates("region")[0], regions[fact.value_id]
            start = verb_templates(relation)[0].prompt(name=subject).removesuffix(" in the city of")
            yield make_probe(
                fact,
                "multi_hop",
                hop_template,
                f"{start} in the region of",
                pools["region"],
                target=region_fact.value,
                supporting_fact_ids=[fact.fact_id, region_fact.fact_id],
            )
        if fact.panel:
            reverse_template = rng.choice(train_templates(relation_templates(relation), forward=False))
            # Several people may share the value; only people without it are wrong answers.
            wrong_names = [
                names_by_id[other_fact.entity_id]
                for other_fact in by_relation[relation]
                if other_fact.value != fact.value
            ]
            name_candidates = sorted([subject, *rng.sample(wrong_names, min(19, len(wrong_names)))])
            yield make_probe(
                fact,
                "reverse",
                reverse_template,
                reverse_template.prompt(value=fact.value),
                name_candidates,
                target=subject,
            )
            negated_template = rng.choice(negated_templates(relation))
            yield make_probe(fact, "negated", negated_template, negated_template.prompt(name=subject), candidates)
            neighbours = [
                other_fact
                for other_fact in by_relation[relation]
                if other_fact.value == fact.value and other_fact.fact_id != fact.fact_id
            ]
            for index, other_fact in enumerate(rng.sample(neighbours, min(settings.neighbours, len(neighbours)))):
                yield make_probe(
                    fact,
                    "neighbourhood",
                    verb_template,
                    verb_template.prompt(name=names_by_id[other_fact.entity_id]),
                    candidates,
                    suffix=f"{verb_template.id}-{index}",
                    target=other_fact.value,
                    supporting_fact_ids=[other_fact.fact_id],
                )
