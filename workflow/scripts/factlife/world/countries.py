"""World `countries`: real facts from the packages countryinfo and pycountry, for pretrained models.

Prompts end so that the next word must be the object; otherwise models often continue with "the" or "a". Facts without
a single simple answer, and facts whose prompt reveals the answer, are skipped and counted in the log.
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

_MIN_POPULATION = 10_000
# Codes of ISO 4217 that are units of account rather than money.
_FUNDS = {"BOV", "CHE", "CHW", "CLF", "COU", "MXV", "USN", "USS", "UYI"}
# pycountry has "Pound Sterling" and "Yuan Renminbi"; for most currencies the last word is the unit.
_UNIT = re.compile(r"\b(Boliviano|Cordoba|Franc|Peso|Pound|Rial|Yuan)\b")
_SPELLINGS = {"sheqel": "shekel", "Pushto": "Pashto", "Panjabi": "Punjabi", "Divehi": "Dhivehi"}
_ARTICLE_PATTERN = re.compile(
    r"^(United|Republic|Democratic|Federated|Isle|Central African|British Indian)|(Islands|Lands|Republic)$"
)
_NAMES_WITH_ARTICLE = {"Netherlands", "Philippines", "Maldives", "Comoros", "Seychelles"}


class _Skipped(ValueError):
    """A country has no fact of a relation; the message says why."""


def build_world(settings: CountriesWorld) -> World:
    """Collect facts and generate probes.

    Raises:
        WorldError: the panel is larger than the number of countries with a fact of every relation.
    """
    rng = random.Random(f"countries {settings.seed}")
    countries = _countries()
    facts = pd.concat([_facts(countries, relation) for relation in settings.relations], ignore_index=True)
    facts["panel"] = facts["entity_id"].isin(_panel(countries, facts, settings))
    names = {code: _with_article(country["name"]) for code, country in countries.items()}
    entity_ids = sorted(facts["entity_id"].unique())
    entities = pd.DataFrame(
        {
            "entity_id": entity_ids,
            "name": [names[code] for code in entity_ids],
            "kind": "country",
            "split": "pretrained",
            "exposures": 0,
        }
    )
    probes = pd.DataFrame(_probes(names, facts, settings, rng))
    return check_world(World(entities, facts, probes))


def relation_templates(relation: str) -> list[Template]:
    """The templates with the subject before the object; none starts with the subject."""
    return [
        Template(id, text, id.startswith("held"))
        for id, text in _TEMPLATES[relation].items()
        if id.startswith(("forward", "held"))
    ]


def _countries() -> dict[str, dict[str, Any]]:
    """The entries of countryinfo by lower-case ISO 3166 code."""
    countries: dict[str, dict[str, Any]] = {}
    skipped: collections.Counter[str] = collections.Counter()
    for country in CountryInfo.all().values():
        code = (country.get("ISO", {}).get("alpha2") or "").upper()
        if not pycountry.countries.get(alpha_2=code or "-"):
            skipped["no ISO 3166 code"] += 1
        elif code.lower() in countries:
            skipped["a code that occurred before"] += 1
        elif re.search(r"[(),/]", country["name"]):
            skipped["punctuation in the name"] += 1
        elif (country.get("population") or 0) < _MIN_POPULATION:
            skipped["a tiny population"] += 1
        else:
            countries[code.lower()] = dict(country)
    _report("countries", skipped)
    return countries


def _report(name: str, skipped: collections.Counter[str]) -> None:
    reasons = ", ".join(f"{count} with {reason}" for reason, count in sorted(skipped.items()))
    log.info("%s: skipped %d: %s", name, skipped.total(), reasons or "none")


def _with_article(name: str) -> str:
    if name.startswith("The "):
        return f"the {name.removeprefix('The ')}"
    return f"the {name}" if name in _NAMES_WITH_ARTICLE or _ARTICLE_PATTERN.search(name) else name


def _facts(countries: dict[str, dict[str, Any]], relation: str) -> pd.DataFrame:
    values: dict[str, str] = {}
    skipped: collections.Counter[str] = collections.Counter()
    for code, country in countries.items():
        try:
            values[code] = _value(country, relation)
        except _Skipped as reason:
            skipped[str(reason)] += 1
    _report(relation, skipped)
    value_numbers = {value: index for index, value in enumerate(sorted(set(values.values())))}
    return pd.DataFrame(
        {
            "fact_id": [f"{code}.{relation}" for code in values],
            "entity_id": list(values),
            "relation": relation,
            "value": list(values.values()),
            "value_id": [f"{relation}{value_numbers[value]:03d}" for value in values.values()],
            "seen": True,
            "exposures": 0,
        }
    )


def _value(country: dict[str, Any], relation: str) -> str:
    value = _READERS[relation](country)
    if not isinstance(value, str) or not value:
        raise _Skipped("no value")
    if re.search(r"[(),/]", value):
        raise _Skipped("punctuation in the value")
    for part, text in ((value, country["name"]), (country["name"], value)):
        if re.search(rf"\b{re.escape(part)}\b", text):
            raise _Skipped("a value that the name reveals")
    return value


def _currency(country: dict[str, Any]) -> str:
    units = set()
    for code in set(country.get("currencies") or ()) - _FUNDS:
        if not (currency := pycountry.currencies.get(alpha_3=code)):
            raise _Skipped("a currency that ISO 4217 no longer lists")
        unit = _UNIT.search(currency.name)
        word = (unit.group() if unit else currency.name.split()[-1]).lower()
        units.add(_SPELLINGS.get(word, word))
    return _single(units)


def _language(country: dict[str, Any]) -> str:
    names = set()
    for code in country.get("languages") or ():
        language = pycountry.languages.get(alpha_2=code) or pycountry.languages.get(alpha_3=code)
        if not language:
            raise _Skipped("a language without an ISO 639 entry")
        name = re.sub(r"^Modern | \(.*\)$", "", language.name)
        names.add(_SPELLINGS.get(name, name))
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
    """Countries spread evenly over population, a proxy for how often texts mention them."""
    counts = facts["entity_id"].value_counts()
    candidates = sorted(
        counts.index[counts == len(settings.relations)], key=lambda code: (countries[code]["population"], code)
    )
    if settings.panel > len(candidates):
        raise WorldError(
            f"`panel` is {settings.panel}, but only {len(candidates)} countries have a fact of every relation; "
            "lower `panel`"
        )
    return [candidates[index * len(candidates) // settings.panel] for index in range(settings.panel)]


def _probes(names: dict[str, str], facts: pd.DataFrame, settings: CountriesWorld, rng: random.Random) -> Iterator[dict]:
    rows = {relation: list(group.itertuples()) for relation, group in facts.groupby("relation", sort=False)}
    pools = {relation: {fact.value for fact in group} for relation, group in rows.items()}
    capitals = facts[facts["relation"] == "capital"].drop_duplicates("value", keep=False)
    capital_facts = {fact.entity_id: fact for fact in capitals.itertuples()}
    fact_ids_by_country = facts[facts["relation"] != "capital"].groupby("entity_id")["fact_id"]
    hops = {rng.choice(list(fact_ids)) for code, fact_ids in fact_ids_by_country if code in capital_facts}
    for fact in facts.itertuples():
        name, other_facts = (
            names[fact.entity_id],
            [other_fact for other_fact in rows[fact.relation] if other_fact.fact_id != fact.fact_id],
        )
        candidates = sample_candidates(fact.value, pools[fact.relation], settings.candidates, rng)
        first, second = train_templates(relation_templates(fact.relation))
        question = Template("question", _TEMPLATES[fact.relation]["question"])
        paraphrase = rng.choice(held_out_templates(relation_templates(fact.relation)))
        for kind, template in (("forward", first), ("paraphrase", paraphrase), ("question", question)):
            yield make_probe(fact, kind, template, template.prompt(name=name), candidates)
        if fact.relation == "capital" and fact.entity_id in capital_facts:
            reverse_template = Template("reverse", _TEMPLATES["capital"]["reverse"])
            name_candidates = sample_candidates(
                name, (names[other_fact.entity_id] for other_fact in other_facts), settings.candidates, rng
            )
            yield make_probe(
                fact,
                "reverse",
                reverse_template,
                reverse_template.prompt(value=fact.value),
                name_candidates,
                target=name,
            )
        if fact.fact_id in hops:
            capital, hop_template = capital_facts[fact.entity_id], Template("hop", _TEMPLATES[fact.relation]["hop"])
            support = [capital.fact_id, fact.fact_id]
            yield make_probe(
                fact,
                "multi_hop",
                hop_template,
                hop_template.prompt(name=capital.value),
                candidates,
                supporting_fact_ids=support,
            )
        if fact.panel:
            yield make_probe(fact, "forward", second, second.prompt(name=name), candidates)
            negated_template = Template("negated", first.text.replace(" is ", " is not ", 1))
            yield make_probe(fact, "negated", negated_template, negated_template.prompt(name=name), candidates)
            # Countries with the same value come first; capitals are unique.
            neighbours = sorted(
                rng.sample(other_facts, len(other_facts)), key=lambda other_fact: other_fact.value != fact.value
            )
            for index, neighbour in enumerate(neighbours[: settings.neighbours]):
                yield make_probe(
                    fact,
                    "neighbourhood",
                    first,
                    first.prompt(name=names[neighbour.entity_id]),
                    sample_candidates(neighbour.value, candidates, settings.candidates, rng),
                    suffix=f"{first.id}-{index}",
                    target=neighbour.value,
                    supporting_fact_ids=[neighbour.fact_id],
                )
