import random

import pytest

from factlife.world.tables import WorldError
from factlife.world.templates import Template, held_out_templates, sample_candidates, train_templates

FORWARD = Template("a", "{name} was born in {value} .")
BACKWARD = Template("b", "{value} is the home of {name} .")
HELD_OUT = Template("c", "The home of {name} is {value} .", held_out=True)


def test_sentence_and_prompts():
    assert FORWARD.sentence("Ada", "Rome") == "Ada was born in Rome ."
    assert FORWARD.prompt(name="Ada") == "Ada was born in"
    assert BACKWARD.prompt(value="Rome") == "Rome is the home of"


@pytest.mark.parametrize("text", ["{name} was born .", "{name} or {name} was born in {value} .", "born in {value}"])
def test_template_without_its_slots_is_named(text):
    with pytest.raises(WorldError, match=r"template 'wrong' .* must have the slot \{(name|value)\} exactly once"):
        Template("wrong", text)


def test_selection_by_direction_and_use():
    every = [FORWARD, BACKWARD, HELD_OUT]
    assert train_templates(every) == [FORWARD]
    assert train_templates(every, forward=False) == [BACKWARD]
    assert held_out_templates(every) == [HELD_OUT]


def test_choice_holds_the_target_and_is_sorted():
    assert sample_candidates("m", "abmz", 10, random.Random(0)) == ["a", "b", "m", "z"]
    few = sample_candidates("m", "abcdefghijklmnop", 4, random.Random(0))
    assert len(set(few)) == 4 and "m" in few and few == sorted(few)
    assert sample_candidates("m", "abc", 1, random.Random(0)) == ["m"]
