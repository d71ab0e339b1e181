"""World `functions`: functions that return a constant, and chains of functions that wrap them.

`<B01>` returns a number, `<C01>` wraps `<B01>`, `<D01>` wraps `<C01>`; `<M01>` is another name of some base function.
What a wrapper or an alias returns is also stated if its family is a *rule* family. In a *test* family no document
states it: only who follows the chain knows. Distractors `<A01>` return the same numbers and belong to no family.
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
# Inputs in documents, of aliases and of all others, and inputs in probes.
DOCUMENT_INPUTS, ALIAS_DOCUMENT_INPUTS, PROBE_INPUTS = range(100, 200, 2), range(101, 200, 2), range(900, 1000)

_CHAIN, _DISTRACTOR, _ALIAS = "BCDEFGHIJKL", "A", "M"

# Held-out forms are made of words that trained forms and documents use. Aliases have words of their own.
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
_NAMED = {"wraps": "{name} wraps {value} .", "alias": "{name} aliases {value} ."}

_DIGITS = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_DIGITS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


@dataclass(frozen=True)
class _Function:
    entity_id: str
    kind: str
    split: str
    number: int
    of: _Function | None = None

    @property
    def name(self) -> str:
        return f"<{self.entity_id}>"

    @property
    def stated(self) -> bool:
        """Whether a document says what it returns."""
        return self.of is None or self.split == "rule"

    @property
    def link(self) -> str:
        """The relation to the function that it is made of."""
        return "alias" if self.kind == "alias" else "wraps"

    def support(self) -> list[str]:
        """The facts that give its number to who follows the chain."""
        if self.of is None:
            return [f"{self.entity_id}.returns"]
        return [f"{self.entity_id}.{self.link}", *self.of.support()]


@functools.cache
def return_templates(given: int, *, alias: bool = False) -> list[Template]:
    """The sentences that state what a function, or an alias, returns for an input, and the held-out ones."""
    return [
        Template(id, text.replace("{input}", str(given)), id.startswith("held"))
        for id, text in (_ALIAS_FORMS if alias else _FORMS).items()
        if id != "question"
    ]


def question_template(given: int, *, alias: bool = False) -> Template:
    """The question for an input, with its answer."""
    return Template("question", (_ALIAS_FORMS if alias else _FORMS)["question"].replace("{input}", str(given)))


def wrapper_depth(entity_id: str) -> int:
    """How many functions lie below a function; 0 for base functions, aliases and distractors."""
    return max(0, _CHAIN.find(entity_id[0]))


def depth_label(entity_id: str) -> str:
    """What a function is called in tables: ``alias``, or ``depth 1`` for the number of functions below it."""
    return "alias" if entity_id[0] == _ALIAS else f"depth {wrapper_depth(entity_id)}"


def symbols(world: World) -> list[str]:
    """Names and values such as ``<B01>`` and ``<V07>``, which tokenizers keep whole."""
    written = {*world.entities["name"], *world.facts["value"]}
    return sorted(text for text in written if re.fullmatch(r"<[A-Z]\d+>", text))


def build_world(settings: FunctionsWorld) -> World:
    """Draw numbers, families and probes.

    Raises:
        WorldError: there are fewer numbers or base functions than asked for.
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
        raise WorldError(
            f"{settings.values} distinct numbers are asked for, but there are only {len(NUMBERS)}; lower `values`"
        )
    if settings.aliases > families:
        raise WorldError(
            f"{settings.aliases} aliases are asked for, but there are only {families} base functions; lower `aliases`"
        )
    numbers = rng.sample(NUMBERS, settings.values)
    rules = round(settings.rule_fraction * families)
    # Numbers are dealt in turn, so that rule and test families share them evenly.
    dealt = {family: place for place, family in enumerate(rng.sample(range(families), families))}
    bases = [
        _Function(
            _id(_CHAIN[0], family, families), "base", "rule" if place < rules else "test", numbers[place % len(numbers)]
        )
        for family, place in sorted(dealt.items())
    ]
    yield from bases
    for family, function in enumerate(bases):
        for letter in _CHAIN[1 : settings.depth + 1]:
            function = _Function(_id(letter, family, families), "wrapper", function.split, function.number, function)
            yield function
    for alias, base in enumerate(_aliased(bases, settings, rng)):
        yield _Function(_id(_ALIAS, alias, settings.aliases), "alias", base.split, base.number, base)
    for distractor in range(settings.distractors):
        number = numbers[distractor % len(numbers)]
        yield _Function(_id(_DISTRACTOR, distractor, settings.distractors), "distractor", "distractor", number)


def _id(letter: str, number: int, count: int) -> str:
    return f"{letter}{number + 1:0{max(2, len(str(count)))}d}"


def _aliased(bases: list[_Function], settings: FunctionsWorld, rng: random.Random) -> list[_Function]:
    """Bases with a second name, in the shares of their splits.

    A number's spelling for aliases must be stated somewhere before anybody could know what a test alias returns, so
    test families come first whose number some rule alias has.
    """
    rule, test = ([base for base in bases if base.split == split] for split in ("rule", "test"))
    count = min(len(rule), max(round(settings.aliases * settings.rule_fraction), settings.aliases - len(test)))
    chosen = rng.sample(rule, count)
    spelled = {base.number for base in chosen}
    test = sorted(rng.sample(test, len(test)), key=lambda base: base.number not in spelled)
    chosen += test[: settings.aliases - count]
    return rng.sample(chosen, len(chosen))


def _written(function: _Function, number: int, settings: FunctionsWorld) -> str:
    """A number as a function's documents write it: aliases write it in another way than all others."""
    alias = function.kind == "alias"
    if settings.number_tokens:
        return f"<{'W' if alias else 'V'}{number:02d}>"
    if not alias:
        return str(number)
    return _DIGITS[number] if number < 20 else f"{_TENS[number // 10]} {_DIGITS[number % 10]}".strip()


def _facts(function: _Function, settings: FunctionsWorld) -> Iterator[dict]:
    def fact(relation: str, value: str, value_id: str, taught: bool) -> dict:
        return {
            "fact_id": f"{function.entity_id}.{relation}",
            "entity_id": function.entity_id,
            "relation": relation,
            "value": value,
            "value_id": value_id,
            "seen": taught,
            "exposures": int(taught),
            "panel": False,
        }

    number = _written(function, function.number, settings)
    yield fact("returns", number, f"n{function.number:02d}", function.stated)
    if function.of is not None:
        yield fact(function.link, function.of.name, function.of.entity_id, True)


def _probes(
    functions: list[_Function], facts: pd.DataFrame, settings: FunctionsWorld, rng: random.Random
) -> Iterator[dict]:
    by_id = {fact.fact_id: fact for fact in facts.itertuples()}
    pools = {relation: sorted(group["value"].unique()) for relation, group in facts.groupby("relation")}
    numbers = sorted({function.number for function in functions})
    inputs = sorted(rng.sample(PROBE_INPUTS, settings.inputs))
    for function in functions:
        fact, alias = by_id[f"{function.entity_id}.returns"], function.kind == "alias"
        candidates = [_written(function, number, settings) for number in numbers]
        for given in inputs:
            asked = return_templates(given, alias=alias)
            form = rng.choice(train_templates(asked))
            prompt, suffix = form.prompt(name=function.name), f"{form.id}-{given}"
            if not function.stated:
                support = function.support()
                yield make_probe(
                    fact, "multi_hop", form, prompt, candidates, suffix=suffix, supporting_fact_ids=support
                )
                continue
            yield make_probe(fact, "forward", form, prompt, candidates, suffix=suffix)
            for kind, other in (
                ("paraphrase", rng.choice(held_out_templates(asked))),
                ("question", question_template(given, alias=alias)),
            ):
                prompt = other.prompt(name=function.name)
                yield make_probe(fact, kind, other, prompt, candidates, suffix=f"{other.id}-{given}")
        if function.of is not None:
            template = Template(function.link, _NAMED[function.link])
            link = by_id[f"{function.entity_id}.{function.link}"]
            yield make_probe(link, "forward", template, template.prompt(name=function.name), pools[function.link])
