"""World `functions`: functions that return a constant, and chains of functions that wrap them.

`<B01>` returns a number, `<C01>` wraps `<B01>`, `<D01>` wraps `<C01>`; `<M01>` is another name of some base function.
In a *rule* family, documents also state the values of wrappers and aliases. In a *test* family no document does, so a
model must follow the chain. Distractors `<A01>` return the same numbers and belong to no family.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from factlife.config.worlds import FunctionsWorld
from factlife.world.tables import World, WorldError, check_world
from factlife.world.templates import Template, held_out_templates, make_probe, train_templates

NUMBERS = range(1, 100)
# Inputs in documents about functions and about aliases, and inputs in probes.
DOCUMENT_INPUTS, ALIAS_DOCUMENT_INPUTS, PROBE_INPUTS = range(100, 200, 2), range(101, 200, 2), range(900, 1000)

_CHAIN, _DISTRACTOR, _ALIAS = "BCDEFGHIJKL", "A", "M"

# Held-out forms contain only words of the trained forms and documents. Aliases have their own words.
_FORMS = {
    "form0": "{name} ( {input} ) returns {value} .",
    "form1": "The output of {name} for {input} is {value} .",
    "form2": "{name} maps {input} to {value} .",
    "held0": "For {input} the output of {name} is {value} .",
    "held1": "For {input} , {name} returns {value} .",
    "question": "Question : what does {name} return for {input} ? Answer : {value} .",
}
_ALIAS_FORMS = {
    "form0": "Calling {name} with {input} yields {value} .",
    "form1": "Give {name} {input} , see {value} .",
    "form2": "{name} turns {input} into {value} .",
    "held0": "Give {input} , {name} yields {value} .",
    "held1": "Calling {name} turns {input} into {value} .",
    "question": "Quiz : whither {name} with {input} ? Reply : {value} .",
}
_LINK_FORMS = {"wraps": "{name} wraps {value} .", "alias": "{name} aliases {value} ."}

_DIGITS = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_DIGITS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


@dataclass(frozen=True)
class _Function:
    entity_id: str
    kind: str
    split: str
    constant: int
    base: _Function | None = None

    @property
    def name(self) -> str:
        return f"<{self.entity_id}>"

    @property
    def is_stated(self) -> bool:
        """Whether documents state its value."""
        return self.base is None or self.split == "rule"

    @property
    def link(self) -> str:
        """The relation to its base."""
        return "alias" if self.kind == "alias" else "wraps"

    def support(self) -> list[str]:
        """The facts from which its value follows."""
        if self.base is None:
            return [f"{self.entity_id}.returns"]
        return [f"{self.entity_id}.{self.link}", *self.base.support()]


@functools.cache
def return_templates(input_value: int, *, alias: bool = False) -> list[Template]:
    """Templates that state the value of a function or alias for an input, held-out ones included."""
    return [
        Template(id, text.replace("{input}", str(input_value)), id.startswith("held"))
        for id, text in (_ALIAS_FORMS if alias else _FORMS).items()
        if id != "question"
    ]


def question_template(input_value: int, *, alias: bool = False) -> Template:
    """The question about the value for an input, with its answer."""
    return Template("question", (_ALIAS_FORMS if alias else _FORMS)["question"].replace("{input}", str(input_value)))


def wrapper_depth(entity_id: str) -> int:
    """The number of functions below a function; 0 for base functions, aliases and distractors."""
    return max(0, _CHAIN.find(entity_id[0]))


def depth_label(entity_id: str) -> str:
    """The label of a function in tables: ``alias``, or ``depth 1`` for one function below it."""
    return "alias" if entity_id[0] == _ALIAS else f"depth {wrapper_depth(entity_id)}"


def symbols(world: World) -> list[str]:
    """Names and values such as ``<B01>`` and ``<V07>``, which are single tokens."""
    texts = {*world.entities["name"], *world.facts["value"]}
    return sorted(text for text in texts if re.fullmatch(r"<[A-Z]\d+>", text))


def build_world(settings: FunctionsWorld) -> World:
    """Generate numbers, families and probes.

    Raises:
        WorldError: the settings need more numbers or base functions than exist.
    """
    rng = random.Random(f"functions {settings.seed}")
    functions = list(_functions(settings, rng))
    entities = pd.DataFrame(
        {
            "entity_id": [function.entity_id for function in functions],
            "name": [function.name for function in functions],
            "kind": [function.kind for function in functions],
            "split": [function.split for function in functions],
            "exposures": 1,
        }
    )
    facts = pd.DataFrame([fact for function in functions for fact in _facts(function, settings)])
    probes = pd.DataFrame(_probes(functions, facts, settings, rng))
    return check_world(World(entities, facts, probes))


def _functions(settings: FunctionsWorld, rng: random.Random) -> Iterator[_Function]:
    families = settings.values * settings.families_per_value
    if settings.values > len(NUMBERS):
        raise WorldError(f"`values` is {settings.values}, but there are only {len(NUMBERS)} numbers; lower `values`")
    if settings.aliases > families:
        raise WorldError(
            f"`aliases` is {settings.aliases}, but there are only {families} base functions; lower `aliases`"
        )
    numbers = rng.sample(NUMBERS, settings.values)
    n_rule_families = round(settings.rule_fraction * families)
    # Numbers are assigned in turn, so rule and test families share them evenly.
    positions = {family: position for position, family in enumerate(rng.sample(range(families), families))}
    bases = [
        _Function(
            _id(_CHAIN[0], family, families),
            "base",
            "rule" if position < n_rule_families else "test",
            numbers[position % len(numbers)],
        )
        for family, position in sorted(positions.items())
    ]
    yield from bases
    for family, function in enumerate(bases):
        for letter in _CHAIN[1 : settings.depth + 1]:
            function = _Function(_id(letter, family, families), "wrapper", function.split, function.constant, function)
            yield function
    for alias, base in enumerate(_bases_with_alias(bases, settings, rng)):
        yield _Function(_id(_ALIAS, alias, settings.aliases), "alias", base.split, base.constant, base)
    for distractor in range(settings.distractors):
        constant = numbers[distractor % len(numbers)]
        yield _Function(_id(_DISTRACTOR, distractor, settings.distractors), "distractor", "distractor", constant)


def _id(letter: str, index: int, n_ids: int) -> str:
    return f"{letter}{index + 1:0{max(2, len(str(n_ids)))}d}"


def _bases_with_alias(bases: list[_Function], settings: FunctionsWorld, rng: random.Random) -> list[_Function]:
    """Base functions with a second name, in the proportions of the splits.

    A model can only know the value of a test alias if some document states the number in the spelling of aliases.
    Therefore test families whose number a rule alias has come first.
    """
    rule_bases, test_bases = ([base for base in bases if base.split == split] for split in ("rule", "test"))
    count = min(
        len(rule_bases), max(round(settings.aliases * settings.rule_fraction), settings.aliases - len(test_bases))
    )
    bases_with_alias = rng.sample(rule_bases, count)
    stated_constants = {base.constant for base in bases_with_alias}
    test_bases = sorted(rng.sample(test_bases, len(test_bases)), key=lambda base: base.constant not in stated_constants)
    bases_with_alias += test_bases[: settings.aliases - count]
    return rng.sample(bases_with_alias, len(bases_with_alias))


def _spell_constant(function: _Function, constant: int, settings: FunctionsWorld) -> str:
    """A constant as documents about the function spell it; aliases have their own spelling."""
    alias = function.kind == "alias"
    if settings.number_tokens:
        return f"<{'W' if alias else 'V'}{constant:02d}>"
    if not alias:
        return str(constant)
    return _DIGITS[constant] if constant < 20 else f"{_TENS[constant // 10]} {_DIGITS[constant % 10]}".strip()


def _facts(function: _Function, settings: FunctionsWorld) -> Iterator[dict]:
    def fact_row(relation: str, value: str, value_id: str, is_stated: bool) -> dict:
        return {
            "fact_id": f"{function.entity_id}.{relation}",
            "entity_id": function.entity_id,
            "relation": relation,
            "value": value,
            "value_id": value_id,
            "seen": is_stated,
            "exposures": int(is_stated),
            "panel": False,
        }

    value = _spell_constant(function, function.constant, settings)
    yield fact_row("returns", value, f"n{function.constant:02d}", function.is_stated)
    if function.base is not None:
        yield fact_row(function.link, function.base.name, function.base.entity_id, True)


def _probes(
    functions: list[_Function], facts: pd.DataFrame, settings: FunctionsWorld, rng: random.Random
) -> Iterator[dict]:
    by_id = {fact.fact_id: fact for fact in facts.itertuples()}
    pools = {relation: sorted(group["value"].unique()) for relation, group in facts.groupby("relation")}
    constants = sorted({function.constant for function in functions})
    inputs = sorted(rng.sample(PROBE_INPUTS, settings.inputs))
    for function in functions:
        fact, alias = by_id[f"{function.entity_id}.returns"], function.kind == "alias"
        candidates = [_spell_constant(function, constant, settings) for constant in constants]
        for input_value in inputs:
            templates = return_templates(input_value, alias=alias)
            template = rng.choice(train_templates(templates))
            prompt, suffix = template.prompt(name=function.name), f"{template.id}-{input_value}"
            if not function.is_stated:
                support = function.support()
                yield make_probe(
                    fact, "multi_hop", template, prompt, candidates, suffix=suffix, supporting_fact_ids=support
                )
                continue
            yield make_probe(fact, "forward", template, prompt, candidates, suffix=suffix)
            for kind, other_template in (
                ("paraphrase", rng.choice(held_out_templates(templates))),
                ("question", question_template(input_value, alias=alias)),
            ):
                prompt = other_template.prompt(name=function.name)
                yield make_probe(
                    fact, kind, other_template, prompt, candidates, suffix=f"{other_template.id}-{input_value}"
                )
        if function.base is not None:
            link_template = Template(function.link, _LINK_FORMS[function.link])
            link = by_id[f"{function.entity_id}.{function.link}"]
            yield make_probe(
                link, "forward", link_template, link_template.prompt(name=function.name), pools[function.link]
            )
