"""World `countries`: real facts from the packages countryinfo and pycountry, for models that were trained elsewhere.

Prompts force the next word to be the object, since models like to go on with "the" or "a" where they can. Facts without
one plain true answer, or whose prompt gives the answer away, are left out and counted in the log.
"""

from __future__ import annotations

import collections
import logging
import random
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pycountry
from countryinfo import CountryInfo

from factlife.config.worlds import CountriesWorld
from factlife.world.tables import World, WorldError, check_world
from factlife.world.templates import Template, held_out_templates, make_probe, sample_candidates, train_templates

log = logging.getLogger(__name__)

_TEMPLATES = {
    "capital": {
        "forward0": "The capital city of {name} is the city of {value}.",
        "forward1": "The name of the capital city of {name} is {value}.",
        "held0": "In {name}, the capital is the city of {value}.",
        "held1": "The city that is the capital of {name} is called {value}.",
        "question": "Question: What is the capital city of {name}?\nAnswer: The capital is the city of {value}.",
        "reverse": "The city of {value} is the capital city of {name}.",
    },
    "currency": {
        "forward0": "The official currency of {name} is called the {value}.",
        "forward1": "In {name}, the currency is the {value}.",
        "held0": "In {name}, people pay with a currency called the {value}.",
        "held1": "The money of {name} is the {value}.",
        "question": "Question: What is the currency of {name}?\nAnswer: The currency is the {value}.",
        "hop": "The official currency of the country whose capital is {name} is called the {value}.",
    },
    "language": {
        "forward0": "The official language of {name} is the language called {value}.",
        "forward1": "In {name}, the official language is {value}.",
        "held0": "In {name}, official documents are written in {value}.",
        "held1": "The government of {name} writes its laws in {value}.",
        "question": "Question: What is the official language of {name}?\nAnswer: The official language is {value}.",
        "hop": "The official language of the country whose capital is {name} is the language called {value}.",
    },
    "continent": {
        "forward0": "The continent that {name} belongs to is {value}.",
        "forward1": "On the map of the world, {name} is part of the continent of {value}.",
        "held0": "In atlases, {name} is found on the pages about {value}.",
        "held1": "Geographers count {name} as part of the continent of {value}.",
        "question": "Question: Which continent does {name} belong to?\nAnswer: The continent is {value}.",
        "hop": "The continent that the country whose capital is {name} belongs to is {value}.",
    },
    "demonym": {
        "forward0": "The word for the people of {name} is {value}.",
        "forward1": "Someone who comes from {name} is described as {value}.",
        "held0": "People who were born in {name} are usually described as {value}.",
        "held1": "The nationality of people from {name} is {value}.",
        "question": "Question: What are people from {name} called?\nAnswer: They are called {value}.",
        "hop": "The word for the people of the country whose capital is {name} is {value}.",
    },
}

_FEWEST = 10_000
# Of the codes in ISO 4217, those that are units of account and not money that anybody pays with.
_FUNDS = {"BOV", "CHE", "CHW", "CLF", "COU", "MXV", "USN", "USS", "UYI"}
# pycountry says "Pound Sterling" and "Yuan Renminbi"; mostly the last word is the unit.
_UNIT = re.compile(r"\b(Boliviano|Cordoba|Franc|Peso|Pound|Rial|Yuan)\b")
_SPELLING = {"sheqel": "shekel", "Pushto": "Pashto", "Panjabi": "Punjabi", "Divehi": "Dhivehi"}
_THE = re.compile(
    r"^(United|Republic|Democratic|Federated|Isle|Central African|British Indian)|(Islands|Lands|Republic)$"
)
_THE_NAMES = {"Netherlands", "Philippines", "Maldives", "Comoros", "Seychelles"}


class _Skipped(ValueError):
    """A country has no fact of a relation; the text says why."""


def build_world(settings: CountriesWorld) -> World:
    """Collect facts and make probes.

    Raises:
        WorldError: the panel is larger than the number of countries with a fact of every relation.
    """
    rng = random.Random(f"countries {settings.seed}")
    countries = _countries()
    facts = pd.concat([_facts(countries, relation) for relation in settings.relations], ignore_index=True)
    facts["panel"] = facts["entity_id"].isin(_panel(countries, facts, settings))
    names = {code: _with_article(country["name"]) for code, country in countries.items()}
    known = sorted(facts["entity_id"].unique())
    entities = pd.DataFrame(
        {
            "entity_id": known,
            "name": [names[code] for code in known],
            "kind": "country",
            "split": "pretrained",
            "exposures": 0,
        }
    )
    probes = pd.DataFrame(_probes(names, facts, settings, rng))
    return check_world(World(entities, facts, probes))


def relation_templates(relation: str) -> list[Template]:
    """The templates that have the subject before the object; none begins with the subject."""
    return [
        Template(id, text, id.startswith("held"))
        for id, text in _TEMPLATES[relation].items()
        if id.startswith(("forward", "held"))
    ]


def _countries() -> dict[str, dict[str, Any]]:
    """What countryinfo says of every country, by the lower-case code of ISO 3166."""
    countries: dict[str, dict[str, Any]] = {}
    skipped: collections.Counter[str] = collections.Counter()
    for country in CountryInfo.all().values():
        code = (country.get("ISO", {}).get("alpha2") or "").upper()
        if not pycountry.countries.get(alpha_2=code or "-"):
            skipped["no code in ISO 3166"] += 1
        elif code.lower() in countries:
            skipped["a second name for the same code"] += 1
        elif re.search(r"[(),/]", country["name"]):
            skipped["a name that is not plain"] += 1
        elif (country.get("population") or 0) < _FEWEST:
            skipped["hardly any people"] += 1
        else:
            countries[code.lower()] = country
    _report("countries", skipped)
    return countries


def _report(what: str, skipped: collections.Counter[str]) -> None:
    reasons = ", ".join(f"{count} with {reason}" for reason, count in sorted(skipped.items()))
    log.info("%s: left out %d: %s", what, skipped.total(), reasons or "none")


def _with_article(name: str) -> str:
    if name.startswith("The "):
        return f"the {name.removeprefix('The ')}"
    return f"the {name}" if name in _THE_NAMES or _THE.search(name) else name


def _facts(countries: dict[str, dict[str, Any]], relation: str) -> pd.DataFrame:
    values: dict[str, str] = {}
    skipped: collections.Counter[str] = collections.Counter()
    for code, country in countries.items():
        try:
            values[code] = _value(country, relation)
        except _Skipped as reason:
            skipped[str(reason)] += 1
    _report(relation, skipped)
    numbers = {value: number for number, value in enumerate(sorted(set(values.values())))}
    return pd.DataFrame(
        {
            "fact_id": [f"{code}.{relation}" for code in values],
            "entity_id": list(values),
            "relation": relation,
            "value": list(values.values()),
            "value_id": [f"{relation}{numbers[value]:03d}" for value in values.values()],
            "seen": True,
            "exposures": 0,
        }
    )


def _value(country: dict[str, Any], relation: str) -> str:
    value = _READERS[relation](country)
    if not isinstance(value, str) or not value:
        raise _Skipped("no value")
    if re.search(r"[(),/]", value):
        raise _Skipped("a value that is not plain")
    for part, whole in ((value, country["name"]), (country["name"], value)):
        if re.search(rf"\b{re.escape(part)}\b", whole):
            raise _Skipped("a value that the name gives away")
    return value


def _currency(country: dict[str, Any]) -> str:
    units = set()
    for code in set(country.get("currencies") or ()) - _FUNDS:
        if not (currency := pycountry.currencies.get(alpha_3=code)):
            raise _Skipped("a currency that is no longer in ISO 4217")
        unit = _UNIT.search(currency.name)
        word = (unit.group() if unit else currency.name.split()[-1]).lower()
        units.add(_SPELLING.get(word, word))
    return _single(units)


def _language(country: dict[str, Any]) -> str:
    names = set()
    for code in country.get("languages") or ():
        language = pycountry.languages.get(alpha_2=code) or pycountry.languages.get(alpha_3=code)
        if not language:
            raise _Skipped("a language that is not in ISO 639")
        name = re.sub(r"^Modern | \(.*\)$", "", language.name)
        names.add(_SPELLING.get(name, name))
    return _single(names)


def _single(values: set[str]) -> str:
    if len(values) > 1:
        raise _Skipped("several values")
    return next(iter(values), "")


def _continent(country: dict[str, Any]) -> str:
    if country.get("region") != "Americas":
        return country.get("region", "")
    return "South America" if country.get("intermediateregion") == "South America" else "North America"


_READERS = {
    "capital": lambda country: country.get("capital"),
    "currency": _currency,
    "language": _language,
    "continent": _continent,
    "demonym": lambda country: country.get("demonym"),
}


def _panel(countries: dict[str, dict[str, Any]], facts: pd.DataFrame, settings: CountriesWorld) -> list[str]:
    """Countries spread evenly over population, the nearest there is to how often they are written about."""
    counts = facts["entity_id"].value_counts()
    complete = sorted(
        counts.index[counts == len(settings.relations)], key=lambda code: (countries[code]["population"], code)
    )
    if settings.panel > len(complete):
        raise WorldError(
            f"a panel of {settings.panel} countries is asked for, but only {len(complete)} have a plain fact of every "
            "relation; lower `panel`"
        )
    return [complete[place * len(complete) // settings.panel] for place in range(settings.panel)]


def _probes(names: dict[str, str], facts: pd.DataFrame, settings: CountriesWorld, rng: random.Random) -> Iterator[dict]:
    rows = {relation: list(group.itertuples()) for relation, group in facts.groupby("relation", sort=False)}
    pools = {relation: {fact.value for fact in group} for relation, group in rows.items()}
    capitals = facts[facts["relation"] == "capital"].drop_duplicates("value", keep=False)
    seat = {fact.entity_id: fact for fact in capitals.itertuples()}
    reached = facts[facts["relation"] != "capital"].groupby("entity_id")["fact_id"]
    hops = {rng.choice(list(fact_ids)) for code, fact_ids in reached if code in seat}
    for fact in facts.itertuples():
        name, others = names[fact.entity_id], [other for other in rows[fact.relation] if other.fact_id != fact.fact_id]
        candidates = sample_candidates(fact.value, pools[fact.relation], settings.candidates, rng)
        first, second = train_templates(relation_templates(fact.relation))
        asking = Template("question", _TEMPLATES[fact.relation]["question"])
        paraphrase = rng.choice(held_out_templates(relation_templates(fact.relation)))
        for kind, template in (("forward", first), ("paraphrase", paraphrase), ("question", asking)):
            yield make_probe(fact, kind, template, template.prompt(name=name), candidates)
        if fact.relation == "capital" and fact.entity_id in seat:
            backward = Template("reverse", _TEMPLATES["capital"]["reverse"])
            choices = sample_candidates(name, (names[other.entity_id] for other in others), settings.candidates, rng)
            yield make_probe(fact, "reverse", backward, backward.prompt(value=fact.value), choices, target=name)
        if fact.fact_id in hops:
            capital, hop = seat[fact.entity_id], Template("hop", _TEMPLATES[fact.relation]["hop"])
            support = [capital.fact_id, fact.fact_id]
            yield make_probe(
                fact, "multi_hop", hop, hop.prompt(name=capital.value), candidates, supporting_fact_ids=support
            )
        if fact.panel:
            yield make_probe(fact, "forward", second, second.prompt(name=name), candidates)
            denial = Template("negated", first.text.replace(" is ", " is not ", 1))
            yield make_probe(fact, "negated", denial, denial.prompt(name=name), candidates)
            # Those that share the value come first; a capital has none.
            near = sorted(rng.sample(others, len(others)), key=lambda other: other.value != fact.value)
            for number, other in enumerate(near[: settings.neighbours]):
                yield make_probe(
                    fact,
                    "neighbourhood",
                    first,
                    first.prompt(name=names[other.entity_id]),
                    sample_candidates(other.value, candidates, settings.candidates, rng),
                    suffix=f"{first.id}-{number}",
                    target=other.value,
                    supporting_fact_ids=[other.fact_id],
                )
