"""A room's digest changes with its code, and with nothing else."""

from __future__ import annotations

import pytest

from factlife import digest as module
from factlife.digest import digest

CODE = '''"""What it is for."""

def double(number):
    """Twice the number."""
    # by adding
    return number + number
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LIBRARY", tmp_path)
    (tmp_path / "room").mkdir()
    (tmp_path / "other.py").write_text("x = 1")
    (tmp_path / "room" / "inner.py").write_text(CODE)
    (tmp_path / "room" / "__init__.py").write_text("")

    def written(code, path="room/inner.py"):
        (tmp_path / path).write_text(code)
        module._code.cache_clear()
        return digest("room")

    yield written
    module._code.cache_clear()


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("# by adding", "# by adding it to itself", True),
        ("Twice the number.", "The number, doubled.", True),
        ('"""What it is for."""\n', "", True),
        ("number + number", "( number+number )", True),
        ("number + number", "2 * number", False),
        ("def double", "def twice", False),
        ("    # by adding\n", "    'by adding'\n    number += 0\n", False),
    ],
)
def test_digest(library, before, after, same):
    assert before in CODE
    assert (library(CODE) == library(CODE.replace(before, after))) == same


def test_digest_is_of_the_named_rooms(library):
    first = library(CODE)
    assert library("x = 2", "other.py") == first
    assert library("x = 3", "room/new.py") != first
    assert digest("room.inner") != digest("room") != digest("room", "other")
    assert len(first) == 12


def test_unknown_room_is_an_error():
    with pytest.raises(ValueError, match="the library has no room or module `wrold`"):
        digest("world", "wrold")
    assert digest("world") != digest("corpus")
