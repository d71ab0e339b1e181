"""A rule's digest changes with the code that its script reaches, and with nothing else."""

from __future__ import annotations

import pytest

from factlife import digest

FILES = {
    "compute.py": '''
"""Compute it."""

from typing import TYPE_CHECKING

from factlife import table
from factlife.config import base

if TYPE_CHECKING:
    from factlife.unused import Type

result: Type = table.double(base.parse(base.Rows, {}))
''',
    "factlife/__init__.py": "",
    "factlife/table/__init__.py": "from factlife.table.maths import double, triple\n",
    "factlife/table/maths.py": '''
"""Multiples."""

from factlife.unused import Type
from factlife.table import constants, other
from factlife.unused import register


def double(number: Type) -> Type:
    """Twice the number."""
    # by adding
    return number + constants.ZERO + number


def triple(number):
    return other.triple(number)
''',
    "factlife/table/constants.py": 'ZERO = 0\nTEMPLATE = "page.html"\n',
    "factlife/table/page.html": "<p>",
    "factlife/table/other.py": "def triple(number):\n    return 3 * number\n",
    "factlife/unused.py": "class Type:\n    pass\n",
    "factlife/config/__init__.py": "",
    "factlife/config/base.py": """
class Rows:
    count: int = key(1, "How many.")


def parse(kind, mapping):
    command = ["-m", "factlife.process"]
    return kind(**mapping)
""",
    "factlife/process.py": "import factlife.started\n\nfactlife.started.main()\n",
    "factlife/started.py": "def main():\n    pass\n",
}


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes one file after another; returns the digest of the script."""
    monkeypatch.setattr(digest, "_SCRIPTS", tmp_path)

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        digest._module.cache_clear()

    def change(path, before, after):
        assert before in FILES[path]
        write(path, FILES[path].replace(before, after))
        return digest.code_of("compute")

    for path, text in FILES.items():
        write(path, text)
    yield change
    digest._module.cache_clear()


MATHS = "factlife/table/maths.py"


@pytest.mark.parametrize(
    ("path", "before", "after", "same"),
    [
        (MATHS, "# by adding", "# by adding it to itself", True),
        (MATHS, "Twice the number.", "The number, doubled.", True),
        (MATHS, '"""Multiples."""\n', "", True),
        (MATHS, "number: Type", "number: int", True),
        (MATHS, "+ number", "+ 2 * number", False),
        # A module counts whole where one of its names is reached, and names are followed from reached functions alone.
        (MATHS, "return other", "print()\n    return other", False),
        ("factlife/table/other.py", "3", "4", True),
        ("factlife/table/constants.py", "0", "1", False),
        ("factlife/table/page.html", "<p>", "<b>", False),
        ("factlife/table/__init__.py", ", triple", "", True),
        ("factlife/unused.py", "pass", "x = 1", True),
        ("factlife/config/base.py", "How many.", "The number.", True),
        ("factlife/config/base.py", "key(1", "key(2", False),
        # What a string names as a module is started by it.
        ("factlife/process.py", "main()", "main() or main()", False),
        ("factlife/started.py", "pass", "print()", False),
        ("compute.py", "double(", "triple(", False),
    ],
)
def test_digest_follows_what_the_script_reaches(library, path, before, after, same):
    assert (library("compute.py", "Compute", "Compute") == library(path, before, after)) == same


def test_a_decorator_that_registers_reaches_what_its_function_uses(library):
    text = "from factlife.unused import register\nfrom factlife.table import other\nZERO = 0\n\n\n{}\ndef theme():\n    return other\n"
    for decorator, reached in [("@register", True), ("@functools.cache", False)]:
        library("factlife/table/constants.py", FILES["factlife/table/constants.py"], text.format(decorator))
        assert ("factlife.table.other" in digest.reached_modules("compute")) == reached


def test_an_unknown_script_is_an_error():
    with pytest.raises(ValueError, match="there is no script workflow/scripts/trian_model"):
        digest.code_of("trian_model")
    assert digest.code_of("train_model") != digest.code_of("generate_world")
    assert len(digest.code_of("train_model")) == 12
