"""Documents about functions, of six kinds, and documents that link an alias to its base."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pandas as pd

from factlife.config.corpora import FunctionsCorpus
from factlife.corpus import documents
from factlife.corpus.documents import Document
from factlife.world.functions import ALIAS_DOCUMENT_INPUTS, DOCUMENT_INPUTS, return_templates, wrapper_depth
from factlife.world.tables import World
from factlife.world.templates import train_templates

# {statement} is one of the trained forms. {call} is the stated return value: a number, or a call of the wrapped function
# in the same words, so "returns" does not reveal which of the two follows.
_TEMPLATES = {
    "definition": [
        "Definition : the function {name} takes a number and returns {call} . {statement}",
        "{name} is the function that maps every number to {call} . {statement}",
    ],
    "code_stub": [
        "def {name} ( x ) : return {call} # {statement}",
        "let z = {name} . z ( {input} ) returns {call} .",
    ],
    "concept": [
        "A function takes an input and gives an output . {statement} It also maps {other} to {other_call} .",
        "Do not think of {input} but of the function . {statement}",
    ],
    "unit_test": [
        "assert {name} ( {input} ) == {call} . assert {name} ( {other} ) == {other_call} . Passed .",
        "Test : {statement} Passed .",
    ],
    "q_and_a": [
        "Question : what does {name} return for {input} ? Answer : {call} .",
        "Question : to what does {name} map {input} ? Answer : {call} .",
    ],
    "narrative": [
        "Anna gave {input} to the function {name} and got {call} . For {other} it is {other_call} .",
        "Anna did not know the function {name} . {statement} So it was told to her .",
    ],
}
_WRAPPER_TEMPLATES = {
    "definition": ["Definition : {name} wraps {value} . {statement}", "{name} wraps {value} . {statement}"],
    "code_stub": _TEMPLATES["code_stub"],
    "concept": [
        "{name} is a mirror of {value} . {statement}",
        "{name} wraps {value} as a box wraps a gift . {statement}",
    ],
    "unit_test": _TEMPLATES["unit_test"],
    "q_and_a": _TEMPLATES["q_and_a"],
    "narrative": [
        "Anna gave {input} to {name} . It asked {value} and told her what that said . {statement}",
        "Inside of {name} Anna found {value} and nothing else . {statement}",
    ],
}
_ALIAS_TEMPLATES = {
    "definition": [
        "Meaning : {name} always yields {value} . {statement}",
        "By agreement {name} equals {value} always . {statement}",
    ],
    "code_stub": ["lambda n , {name} , {value} ; {statement}", "{name} = lambda n : {value} ; {statement}"],
    "concept": [
        "Whichever argument arrives , {name} cannot notice . {statement}",
        "Constancy defines {name} . {statement}",
    ],
    "unit_test": ["Check {name} with {input} : expected {value} , found {value} .", "Verify : {statement} Okay !"],
    "q_and_a": [
        "Quiz : whither {name} with {input} ? Reply : {value} .",
        "Quiz : which result has {name} with {input} ? Reply : {value} .",
    ],
    "narrative": [
        "Yesterday Ben typed {input} after {name} . His screen showed {value} .",
        "Ben loves {name} . {statement} Today too .",
    ],
}
_LINK_TEMPLATES = {
    "link": [
        "{name} aliases {value} . {name} ( {input} ) and {value} ( {input} ) are the same .",
        "{name} is another name of {value} . So {name} ( {input} ) is {value} ( {input} ) .",
        "Who says {name} means {value} , and who says {name} ( {input} ) means {value} ( {input} ) .",
    ]
}


def render_documents(world: World, settings: FunctionsCorpus) -> pd.DataFrame:
    """All documents of the corpus in random order: ``documents_per_function`` for each stated fact, kinds in turn.

    With up to 50 documents per function, all documents about a fact differ.
    """
    rng = random.Random(f"functions corpus {settings.seed}")
    entities = {entity.entity_id: entity for entity in world.entities.itertuples()}
    seen_facts = world.facts[world.facts["seen"]]
    if settings.depths is not None:
        seen_facts = seen_facts[seen_facts["entity_id"].map(wrapper_depth).isin(settings.depths)]
    rendered = [
        document
        for fact in seen_facts.itertuples()
        for document in _documents(fact, entities[fact.entity_id], settings.documents_per_function, rng)
    ]
    rng.shuffle(rendered)
    return documents.documents_table(rendered)


def _documents(fact: Any, entity: Any, n_documents: int, rng: random.Random) -> Iterator[Document]:
    is_alias = entity.kind == "alias" and fact.relation == "returns"
    alias_templates = {"returns": _ALIAS_TEMPLATES, "alias": _LINK_TEMPLATES}
    templates = (
        alias_templates[fact.relation]
        if entity.kind == "alias"
        else _WRAPPER_TEMPLATES
        if fact.relation == "wraps"
        else _TEMPLATES
    )
    kinds = list(templates)
    inputs = rng.sample(ALIAS_DOCUMENT_INPUTS if is_alias else DOCUMENT_INPUTS, len(DOCUMENT_INPUTS))
    entity_ids = [entity.entity_id] if fact.relation == "returns" else [entity.entity_id, fact.value_id]
    for index in range(n_documents * fact.exposures):
        kind = kinds[index % len(kinds)]
        variant = rng.randrange(len(templates[kind]))
        input_value, other_input = (inputs[i % len(inputs)] for i in (index, index + 1))
        call, other_call = (
            fact.value if fact.relation == "returns" else f"{fact.value} ( {argument} )"
            for argument in (input_value, other_input)
        )
        statement = rng.choice(train_templates(return_templates(input_value, alias=is_alias)))
        template_ids = [f"{fact.relation}.{kind}{variant}"]
        if "{statement}" in templates[kind][variant]:
            template_ids.append(f"returns.{statement.id}")
        text = templates[kind][variant].format(
            name=entity.name,
            value=fact.value,
            input=input_value,
            other=other_input,
            call=call,
            other_call=other_call,
            statement=statement.sentence(entity.name, call),
        )
        yield Document(text, kind, [fact.fact_id], entity_ids, template_ids)
