"""Documents about functions, of six kinds, and those that link an alias to its base."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pandas as pd

from factlife.config.corpora import FunctionsCorpus
from factlife.corpus import documents
from factlife.corpus.documents import Document
from factlife.world.functions import ALIAS_DOCUMENT_INPUTS, DOCUMENT_INPUTS, return_templates, wrapper_depth
from factlife.world.tables import World
from factlife.world.templates import train_templates

# {said} is one of the trained forms. {call} is what a function is said to return: a number, or a call of the function
# that it wraps, in the same words, so that "returns" alone does not tell which of the two follows.
_DOCUMENTS = {
    "definition": [
        "Definition : the function {name} takes a number and returns {call} . {said}",
        "{name} is the function that maps every number to {call} . {said}",
    ],
    "code_stub": [
        "def {name} ( x ) : return {call} # {said}",
        "let z = {name} . z ( {input} ) returns {call} .",
    ],
    "concept": [
        "A function takes an input and gives an output . {said} It also maps {other} to {call_other} .",
        "Do not think of {input} but of the function . {said}",
    ],
    "unit_test": [
        "assert {name} ( {input} ) == {call} . assert {name} ( {other} ) == {call_other} . Passed .",
        "Test : {said} Passed .",
    ],
    "q_and_a": [
        "Question : what does {name} return for {input} ? Answer : {call} .",
        "Question : to what does {name} map {input} ? Answer : {call} .",
    ],
    "narrative": [
        "Anna gave {input} to the function {name} and got {call} . For {other} it is {call_other} .",
        "Anna did not know the function {name} . {said} So it was told to her .",
    ],
}
_WRAPS = {
    "definition": ["Definition : {name} wraps {value} . {said}", "{name} wraps {value} . {said}"],
    "code_stub": _DOCUMENTS["code_stub"],
    "concept": ["{name} is a mirror of {value} . {said}", "{name} wraps {value} as a box wraps a gift . {said}"],
    "unit_test": _DOCUMENTS["unit_test"],
    "q_and_a": _DOCUMENTS["q_and_a"],
    "narrative": [
        "Anna gave {input} to {name} . It asked {value} and told her what that said . {said}",
        "Inside of {name} Anna found {value} and nothing else . {said}",
    ],
}
_ALIAS_DOCUMENTS = {
    "definition": [
        "Meaning : {name} always yields {value} . {said}",
        "By agreement {name} equals {value} always . {said}",
    ],
    "code_stub": ["lambda n , {name} , {value} ; {said}", "{name} = lambda n : {value} ; {said}"],
    "concept": ["Whichever argument arrives , {name} cannot notice . {said}", "Constancy defines {name} . {said}"],
    "unit_test": ["Check {name} with {input} : expected {value} , found {value} .", "Verify : {said} Okay !"],
    "q_and_a": [
        "Quiz : whither {name} with {input} ? Reply : {value} .",
        "Quiz : which result has {name} with {input} ? Reply : {value} .",
    ],
    "narrative": [
        "Yesterday Ben typed {input} after {name} . His screen showed {value} .",
        "Ben loves {name} . {said} Today too .",
    ],
}
_ALIAS = {
    "link": [
        "{name} aliases {value} . {name} ( {input} ) and {value} ( {input} ) are the same .",
        "{name} is another name of {value} . So {name} ( {input} ) is {value} ( {input} ) .",
        "Who says {name} means {value} , and who says {name} ( {input} ) means {value} ( {input} ) .",
    ]
}


def render_documents(world: World, settings: FunctionsCorpus) -> pd.DataFrame:
    """All documents of the corpus, in random order: ``documents_per_function`` for each fact that is taught, all kinds in turn.

    Up to 50 renderings, no two documents about a fact are the same.
    """
    rng = random.Random(f"functions corpus {settings.seed}")
    entities = {entity.entity_id: entity for entity in world.entities.itertuples()}
    taught = world.facts[world.facts["seen"]]
    if settings.depths is not None:
        taught = taught[taught["entity_id"].map(wrapper_depth).isin(settings.depths)]
    made = [
        document
        for fact in taught.itertuples()
        for document in _documents(fact, entities[fact.entity_id], settings.documents_per_function, rng)
    ]
    rng.shuffle(made)
    return documents.documents_table(made)


def _documents(fact: tuple, entity: tuple, renderings: int, rng: random.Random) -> Iterator[Document]:
    alias = entity.kind == "alias" and fact.relation == "returns"
    of_alias = {"returns": _ALIAS_DOCUMENTS, "alias": _ALIAS}
    texts = of_alias[fact.relation] if entity.kind == "alias" else _WRAPS if fact.relation == "wraps" else _DOCUMENTS
    kinds = list(texts)
    inputs = rng.sample(ALIAS_DOCUMENT_INPUTS if alias else DOCUMENT_INPUTS, len(DOCUMENT_INPUTS))
    mentioned = [entity.entity_id] if fact.relation == "returns" else [entity.entity_id, fact.value_id]
    for number in range(renderings * fact.exposures):
        kind = kinds[number % len(kinds)]
        variant = rng.randrange(len(texts[kind]))
        given, other = (inputs[place % len(inputs)] for place in (number, number + 1))
        call, call_other = (
            fact.value if fact.relation == "returns" else f"{fact.value} ( {one} )" for one in (given, other)
        )
        form = rng.choice(train_templates(return_templates(given, alias=alias)))
        ids = [f"{fact.relation}.{kind}{variant}"]
        if "{said}" in texts[kind][variant]:
            ids.append(f"returns.{form.id}")
        text = texts[kind][variant].format(
            name=entity.name,
            value=fact.value,
            input=given,
            other=other,
            call=call,
            call_other=call_other,
            said=form.sentence(entity.name, call),
        )
        yield Document(text, kind, [fact.fact_id], mentioned, ids)
