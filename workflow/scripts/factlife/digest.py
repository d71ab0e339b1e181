"""A digest of the code that a rule runs, so that the rule reruns when this code changes.

The digest follows names from the rule's script through the library. It then covers whole every module of the library in
which a name is reached: names alone miss what a decorator registers, and all imported modules would rerun most rules.
Comments, docstrings, type annotations of functions and descriptions of config keys do not count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_SCRIPTS = Path(__file__).parents[1]
_LIBRARY = "factlife"
# Decorators of these modules register nothing: a function under them runs only where it is named.
_INERT = {"functools", "contextlib", "dataclasses", "typing", "abc"}

Definition = tuple[str, str]  # Module and name; the name is empty for a module as a whole.


def code_of(rule: str, *imported: str) -> str:
    """Digest of all code that a rule's script reaches, 12 hexadecimal digits.

    Args:
        rule: name of a script in ``workflow/scripts``, without its suffix.
        imported: modules of the user's own, which count whole.

    Raises:
        ValueError: there is no such script.
    """
    if not (_SCRIPTS / f"{rule}.py").exists():
        raise ValueError(f"there is no script workflow/scripts/{rule}.py")
    parts = [f"{name} {_module(name).code}" for name in sorted(reached_modules(rule))]
    for name in imported:
        spec = importlib.util.find_spec(name)
        parts += [Path(spec.origin).read_text(encoding="utf-8")] if spec and spec.origin else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def reached_modules(script: str) -> set[str]:
    """Names of the modules that a script reaches, itself included."""
    modules: set[str] = set()
    visited: set[Definition] = set()
    pending: list[Definition] = [(script, "")]
    while pending:
        definition = pending.pop()
        if definition in visited:
            continue
        visited.add(definition)
        name, _ = definition
        if name not in modules:
            modules.add(name)
            pending += [target for node in _module(name).registering for target in _uses(_module(name), node)]
        pending += [target for node in _nodes(definition) for target in _uses(_module(name), node)]
    return modules


@dataclass
class _Module:
    """A parsed module.

    Attributes:
        name: dotted name; of a script, its file's name.
        folder: where its file is.
        body: its statements.
        code: the module without comments, docstrings and descriptions, and the text of files that it names.
        definitions: statements that define each name at the top level.
        imports: module and name behind each imported name; the name is empty for a module.
        registering: statements that run when the module is imported and may register what they define.
    """

    name: str
    folder: Path
    body: list[ast.stmt]
    code: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Definition] = field(default_factory=dict)
    registering: list[ast.stmt] = field(default_factory=list)


@functools.cache
def _module(name: str) -> _Module:
    path = _path(name)
    if path is None:
        raise ValueError(f"there is no module {name}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    _strip(tree)
    module = _Module(name, path.parent, tree.body, "")
    files = sorted(set(_named_files(module)))
    module.code = "".join([str(_dump(tree)), *(file.read_text(encoding="utf-8") for file in files)])
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module.imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], node.module or ""])
            module.imports |= {alias.asname or alias.name: (source.rstrip("."), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                target = alias.name if alias.asname else alias.name.split(".")[0]
                module.imports[alias.asname or target] = (target, "")
    for statement in tree.body:
        for defined_name in _defined_names(statement):
            module.definitions.setdefault(defined_name, []).append(statement)
        if isinstance(statement, ast.Expr) or _is_registered(module, statement):
            module.registering.append(statement)
    return module


def _path(name: str) -> Path | None:
    path = _SCRIPTS.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _nodes(definition: Definition) -> list[ast.stmt]:
    module, name = definition
    return _module(module).definitions[name] if name else _module(module).body


def _defined_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _is_registered(module: _Module, statement: ast.stmt) -> bool:
    roots = [
        _chain(node.func if isinstance(node, ast.Call) else node) for node in getattr(statement, "decorator_list", [])
    ]
    return any(root and module.imports.get(root[0], (root[0],))[0].split(".")[0] not in _INERT for root in roots)


def _uses(module: _Module, statement: ast.stmt) -> Iterator[Definition]:
    """Definitions of the library that a statement names, in code or as a module's name in a string."""
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{_LIBRARY}."):
            if node.value.replace(".", "").replace("_", "").isalnum() and _path(node.value):
                yield node.value, ""
        elif isinstance(node, (ast.Name, ast.Attribute)) and (chain := _chain(node)):
            yield from _resolve(module.name, chain)
        else:
            pending += ast.iter_child_nodes(node)


def _chain(node: ast.expr) -> list[str]:
    """Parts of a dotted name; none of another expression."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (chain := _chain(node.value)):
        return [*chain, node.attr]
    return []


def _resolve(name: str, chain: list[str]) -> Iterator[Definition]:
    """Where a dotted name, as a module writes it, is defined in the library."""
    while chain and _path(name):
        module, (first, *rest) = _module(name), chain
        if first in module.definitions:
            yield name, first
            return
        source, attribute = module.imports.get(first, (name, first))
        if (source, attribute) == (
            name,
            first,
        ):  # Neither defined nor imported from elsewhere: a module of this package.
            source, attribute = f"{name}.{first}", ""
        if not source.startswith(_LIBRARY):
            return
        name, chain = (source, [attribute, *rest]) if attribute else (source, rest)
    if not chain and _path(name):
        yield name, ""  # A module as a value, whose names may be read in any way.


def _named_files(module: _Module) -> Iterator[Path]:
    """Files beside a module that a string in it names, such as a page's template."""
    for node in ast.walk(ast.Module(module.body, [])):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            path = module.folder / node.value
            if path.suffix in (".html", ".js", ".css") and path.is_file():
                yield path


def _strip(tree: ast.Module) -> None:
    """Take out what changes no result: docstrings, annotations of functions, imports for types, descriptions of keys."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            first = body[0] if body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                del body[0]
            body[:] = [statement for statement in body if not _is_type_checking(statement)]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "key":
            node.args = node.args[:1]


def _is_type_checking(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.If) and isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
    )


def _dump(node: object) -> object:
    """As `ast.dump`, without the empty fields in which Python's versions differ."""
    if isinstance(node, ast.AST):
        fields = [[name, _dump(value)] for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *fields]
    return [_dump(item) for item in node] if isinstance(node, list) else repr(node)
