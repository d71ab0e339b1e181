import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factlife.config.worlds import OrdinaryNames, PieceNames
from factlife.world.names import person_names, syllables, values
from factlife.world.tables import WorldError

RELATIONS = ["birth_date", "birth_city", "university", "major", "employer", "working_city", "region"]


def test_syllables_are_distinct():
    assert len(set(syllables())) == len(syllables()) == 24 * 5 * 10


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(2, 20), st.integers(1, 4), st.data())
def test_piece_names_are_distinct_combinations_of_the_pool(pool, length, data):
    count = data.draw(st.integers(1, min(60, pool**length)))
    names = person_names(PieceNames(style="pieces", pool=pool, length=length), count, random.Random(0))
    assert len(set(names)) == count
    assert all(len(name.split()) == length for name in names)
    assert len({piece for name in names for piece in name.split()}) <= pool


def test_piece_names_beyond_their_combinations_say_what_to_raise():
    with pytest.raises(WorldError, match=r"9 names .* 3 pieces from a list of 2 make only 8; raise `names.pool`"):
        person_names(PieceNames(style="pieces", pool=2, length=3), 9, random.Random(0))


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
    found = values(relation, 50, random.Random(0))
    assert len(set(found)) == 50
    others = {value for other in RELATIONS if other != relation for value in values(other, 50, random.Random(0))}
    assert not others & set(found)


def test_more_values_than_the_pool_has():
    with pytest.raises(WorldError, match=r"500 distinct values of major .* only \d+; lower `values`"):
        values("major", 500, random.Random(0))
