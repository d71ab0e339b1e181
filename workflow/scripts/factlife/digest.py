"""A digest of rooms of the library, so that rules rerun when the code that they use changes."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

_LIBRARY = Path(__file__).parent


def digest(*rooms: str) -> str:
    """Of all code in the named rooms or modules (``world``, ``models.train``), whatever its comments and docstrings."""
    sources = [path for room in rooms for path in _files(room)]
    return hashlib.sha256("".join(map(_code, sources)).encode()).hexdigest()[:12]


def _files(room: str) -> list[Path]:
    path = _LIBRARY.joinpath(*room.split("."))
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    if not files or not files[0].exists():
        raise ValueError(f"the library has no room or module `{room}`")
    return files


@functools.cache
def _code(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return str(_dump(tree))


def _dump(node: object) -> object:
    """As `ast.dump`, without the empty fields in which Python's versions differ."""
    if isinstance(node, ast.AST):
        fields = [[name, _dump(value)] for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *fields]
    return [_dump(one) for one in node] if isinstance(node, list) else repr(node)
