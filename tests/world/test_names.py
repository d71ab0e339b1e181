import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.config.worlds import OrdinaryNames, PieceNames
from factlife.world.names import person_names, relation_values, syllables
from factlife.world.tables import WorldError

RELATIONS = ["birth_date", "birth_city", "university", "major", "employer", "working_city", "region"]


def test_syllables_are_distinct():
    assert len(set(syllables())) == len(syllables()) == 24 * 5 * 10


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.data())
def test_piece_names_are_distinct_and_keep_to_their_choices(choices, data):
    count = data.draw(st.integers(1, min(60, math.prod(choices))))
    names = person_names(PieceNames(style="pieces", choices=choices), count, random.Random(0))
    assert len(set(names)) == count
    places = list(zip(*(name.split() for name in names), strict=True))
    assert len(places) == len(choices)
    assert all(len(set(place)) <= allowed for place, allowed in zip(places, choices, strict=True))
    assert len({piece for place in places for piece in place}) <= max(choices), "pieces come from one list"


def test_piece_names_beyond_their_combinations_say_what_to_raise():
    with pytest.raises(WorldError, match=r"9 names .* `names.choices` \[2, 2, 2\] gives only 8; raise"):
        person_names(PieceNames(style="pieces", choices=[2, 2, 2]), 9, random.Random(0))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_ordinary_names_are_distinct_and_shared_as_asked(count, per_first, per_last, middle):
    style = OrdinaryNames(
        style="ordinary", people_per_first_name=per_first, people_per_last_name=per_last, middle=middle
    )
    if per_first > -(-count // per_last):
        with pytest.raises(WorldError, match="lower `people_per_first_name` or `people_per_last_name`"):
            person_names(style, count, random.Random(0))
        return
    names = [name.split() for name in person_names(style, count, random.Random(0))]
    assert len({tuple(name) for name in names}) == count
    assert {len(name) for name in names} == {2 + middle}
    assert len({name[0] for name in names}) == -(-count // per_first)
    assert len({name[-1] for name in names}) == -(-count // per_last)
    assert len({(name[0], name[-1]) for name in names}) == count


@pytest.mark.parametrize("relation", RELATIONS)
def test_values_are_distinct_and_never_shared_between_relations(relation):
    found = relation_values(relation, 50, random.Random(0))
    assert len(set(found)) == 50
    others = {
        value for other in RELATIONS if other != relation for value in relation_values(other, 50, random.Random(0))
    }
    assert not others & set(found)


def test_more_values_than_the_pool_has():
    with pytest.raises(WorldError, match=r"major needs 500 distinct values, .* only \d+; lower `values`"):
        relation_values("major", 500, random.Random(0))
