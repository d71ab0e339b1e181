"""World `people`: invented people, six relations, and a small grammar whose combinations make the templates.

Held-out templates are combinations of parts that all occur in training, so that failing on them is a failure to
generalise and not a missing word.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator

import pandas as pd

from factlife.config.worlds import Levels, PeopleWorld, Zipf
from factlife.world import names
from factlife.world.tables import World, WorldError, check_world
from factlife.world.templates import Template, held_out_templates, make_probe, train_templates

# Links end in words that other relations share, so that the last word before a value does not tell which relation is
# asked for, and no link is the beginning of another, so that what follows can only be the value.
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
    made = [
        Template(f"verb{v}-link{n}", f"{{name}} {verbs[v]} {links[n]} {{value}} .", (v, n) in _HELD_OUT)
        for v, n in itertools.product(range(3), range(3))
    ]
    made += [
        Template(f"noun{n}-frame{f}", _NOUN_FRAMES[f].format(noun=nouns[n]), (n, f) in _HELD_OUT)
        for n, f in itertools.product(range(3), range(3))
    ]
    made += [
        Template(f"noun{n}-reverse{f}", _REVERSE_FRAMES[f].format(noun=nouns[n]), (n, f) in _HELD_OUT)
        for n, f in itertools.product(range(3), range(2))
    ]
    return made


@functools.cache
def verb_templates(relation: str) -> list[Template]:
    """The trained verb templates, whose part after the name can be joined to others."""
    return [template for template in train_templates(relation_templates(relation)) if template.id.startswith("verb")]


@functools.cache
def negated_templates(relation: str) -> list[Template]:
    """The trained verb templates, denied."""
    return [
        Template(f"not-{template.id}", template.text.replace(" was ", " was not ", 1).replace(" is ", " is not ", 1))
        for template in verb_templates(relation)
    ]


def question_template(relation: str) -> Template:
    """The question about a relation, with its answer."""
    return Template("question", f"Question : what is the {_GRAMMAR[relation][2][0]} of {{name}} ? Answer : {{value}} .")


def build_world(settings: PeopleWorld) -> World:
    """Draw people, values and probes.

    Raises:
        WorldError: more names, values or panel people are asked for than there are.
    """
    rng = random.Random(f"people {settings.seed}")
    everyone = settings.people + settings.unseen
    ids = [f"p{number:0{len(str(everyone - 1))}d}" for number in range(everyone)]
    people = pd.DataFrame(
        {
            "entity_id": ids,
            "name": names.person_names(settings.names, everyone, rng),
            "kind": "person",
            "split": "unseen",
            "exposures": 0,
        }
    )
    taught = rng.sample(range(everyone), settings.people)
    asked = round(settings.qa_fraction * settings.people)
    people.loc[taught, "exposures"] = _exposures(settings)
    people.loc[taught, "split"] = "qa_heldout"
    people.loc[rng.sample(taught, asked), "split"] = "qa_train"
    # A generator of its own (its seed keeps an old name): the rest of the world does not depend on `new_fraction`.
    new = random.Random(f"late people {settings.seed}").sample(taught, round(settings.new_fraction * settings.people))
    people["new"] = people.index.isin(new)

    facts = pd.concat([_facts(people, relation, settings, rng) for relation in settings.relations])
    facts["panel"] = facts["entity_id"].isin(_panel(people, settings))
    entities = people
    if settings.regions and "birth_city" in settings.relations:
        cities, lies_in = _cities(facts, settings, rng)
        entities, facts = pd.concat([people, cities]), pd.concat([facts, lies_in])
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
    """People spread evenly over frequencies."""
    taught = people[people["split"] != "unseen"].sort_values("exposures", kind="stable")["entity_id"].tolist()
    if settings.panel > len(taught):
        raise WorldError(
            f"a panel of {settings.panel} people is asked for, but only {len(taught)} are taught; lower `panel`"
        )
    return [taught[place * len(taught) // settings.panel] for place in range(settings.panel)]


def _facts(people: pd.DataFrame, relation: str, settings: PeopleWorld, rng: random.Random) -> pd.DataFrame:
    """Every value equally often, in an order of its own."""
    count = settings.values if isinstance(settings.values, int) else settings.values.get(relation)
    if count is None:
        raise WorldError(f"`values` has no number for {relation}; add one, or give one number for all relations")
    pool = names.relation_values(relation, count, rng)
    kind = "city" if relation == "birth_city" and settings.regions else relation
    order = [number % len(pool) for number in range(len(people))]
    rng.shuffle(order)
    return pd.DataFrame(
        {
            "fact_id": people["entity_id"] + f".{relation}",
            "entity_id": people["entity_id"],
            "relation": relation,
            "value": [pool[number] for number in order],
            "value_id": [f"{kind.replace('_', '-')}{number:03d}" for number in order],
            "seen": people["split"] != "unseen",
            "exposures": people["exposures"],
        }
    )


def _cities(facts: pd.DataFrame, settings: PeopleWorld, rng: random.Random) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Birth cities as entities, each in a region."""
    cities = facts[facts["relation"] == "birth_city"].drop_duplicates("value_id").sort_values("value_id")
    regions = names.relation_values("region", settings.regions, rng)
    dealt = [number % len(regions) for number in range(len(cities))]
    rng.shuffle(dealt)
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
    lies_in = pd.DataFrame(
        {
            "fact_id": cities["value_id"] + ".region",
            "entity_id": cities["value_id"],
            "relation": "region",
            "value": [regions[number] for number in dealt],
            "value_id": [f"region{number:03d}" for number in dealt],
            "seen": True,
            "exposures": exposures,
            "panel": False,
        }
    )
    return entities, lies_in


def _probes(entities: pd.DataFrame, facts: pd.DataFrame, settings: PeopleWorld, rng: random.Random) -> Iterator[dict]:
    name = dict(zip(entities["entity_id"], entities["name"], strict=True))
    pools = {relation: sorted(group["value"].unique()) for relation, group in facts.groupby("relation", sort=False)}
    known = facts[facts["seen"]]
    by_relation = {relation: list(group.itertuples()) for relation, group in known.groupby("relation", sort=False)}
    region = {fact.entity_id: fact for fact in by_relation.get("region", [])}

    for fact in facts.itertuples():
        subject, relation, candidates = name[fact.entity_id], fact.relation, pools[fact.relation]
        verb = rng.choice(verb_templates(relation))
        noun = rng.choice(
            [template for template in train_templates(relation_templates(relation)) if template.id.startswith("noun")]
        )
        if not fact.seen:
            yield make_probe(fact, "unseen", verb, verb.prompt(name=subject), candidates)
            continue
        for template in (verb, noun):
            yield make_probe(fact, "forward", template, template.prompt(name=subject), candidates)
        reworded = rng.choice(held_out_templates(relation_templates(relation)))
        yield make_probe(fact, "paraphrase", reworded, reworded.prompt(name=subject), candidates)
        other = rng.choice(
            [other for other in by_relation[rng.choice(list(pools))] if other.entity_id != fact.entity_id]
        )
        before = rng.choice(verb_templates(other.relation)).sentence(name[other.entity_id], other.value)
        yield make_probe(fact, "prefixed", verb, f"{before} {verb.prompt(name=subject)}", candidates)
        asking = question_template(relation)
        yield make_probe(fact, "question", asking, asking.prompt(name=subject), candidates)
        if relation == "birth_city" and region:
            hop, hop_value = verb_templates("region")[0], region[fact.value_id]
            start = verb_templates(relation)[0].prompt(name=subject).removesuffix(" in the city of")
            yield make_probe(
                fact,
                "multi_hop",
                hop,
                f"{start} in the region of",
                pools["region"],
                target=hop_value.value,
                supporting_fact_ids=[fact.fact_id, hop_value.fact_id],
            )
        if fact.panel:
            backward = rng.choice(train_templates(relation_templates(relation), forward=False))
            # Others may share the value: only people who do not have it are wrong answers.
            wrong = [name[other.entity_id] for other in by_relation[relation] if other.value != fact.value]
            choice = sorted([subject, *rng.sample(wrong, min(19, len(wrong)))])
            yield make_probe(fact, "reverse", backward, backward.prompt(value=fact.value), choice, target=subject)
            denial = rng.choice(negated_templates(relation))
            yield make_probe(fact, "negated", denial, denial.prompt(name=subject), candidates)
            same = [
                other for other in by_relation[relation] if other.value == fact.value and other.fact_id != fact.fact_id
            ]
            for number, other in enumerate(rng.sample(same, min(settings.neighbours, len(same)))):
                yield make_probe(
                    fact,
                    "neighbourhood",
                    verb,
                    verb.prompt(name=name[other.entity_id]),
                    candidates,
                    suffix=f"{verb.id}-{number}",
                    target=other.value,
                    supporting_fact_ids=[other.fact_id],
                )
