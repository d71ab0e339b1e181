"""Names say what they hold: no participles, pronouns or pointing words, no shadowed modules, no class names twice."""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "workflow/scripts/factlife"
MODULES = sorted(LIBRARY.rglob("*.py"))
BANNED_WORDS = """
    found told said asked made kept held wanted given known taught stated drawn chosen tried judged written read done
    seen left begun learnt named taken gone going right free one some each every other others of at whole alike apart
    instead now there here number place places own before after still yet away it what whose like beside followed
    lost having
"""
BANNED = set(BANNED_WORDS.split())


def bound_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Parameters and local variables of a function."""
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_variables_are_named_after_what_they_hold(path):
    banned = [
        f"{path.relative_to(LIBRARY)}:{function.name}:{name}"
        for function in functions(path)
        for name in sorted(bound_names(function) & BANNED)
    ]
    assert not banned, f"name these variables after what they hold: {', '.join(banned)}"


def test_no_class_name_occurs_twice():
    modules = collections.defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                modules[node.name].append(str(path.relative_to(LIBRARY)))
    assert not {name: paths for name, paths in modules.items() if len(paths) > 1}


def test_no_function_or_class_shadows_a_module_of_its_package():
    shadows = []
    for path in MODULES:
        siblings = {file.stem for file in path.parent.glob("*.py")}
        siblings |= {folder.parent.name for folder in path.parent.glob("*/__init__.py")}
        definitions = ast.parse(path.read_text(encoding="utf-8")).body
        shadows += [
            f"{path.relative_to(LIBRARY)}:{node.name}"
            for node in definitions
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name in siblings
        ]
    assert not shadows
