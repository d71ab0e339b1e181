"""The reference of all keys and the JSON schema, generated from the config's types."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from factlife.config import Config
from factlife.config.base import Name, models_in
from factlife.config.models import Stages

BEGIN, END = "<!-- begin: written by `make docs` -->", "<!-- end: written by `make docs` -->"
_SCHEMA_HEADER = "# Written by `make docs` from the types in workflow/scripts/factlife/config; edit those.\n"
_NAME_PATTERN = typing.get_args(Name)[1].metadata[0].pattern
_LIMITS = {
    "ge": "≥ {}",
    "gt": "> {}",
    "le": "≤ {}",
    "lt": "< {}",
    "pattern": "matching `{}`",
    "min_length": "at least {} long",
}


def schema_yaml() -> str:
    """The config's JSON schema (draft 2020-12), as YAML."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Config.model_json_schema()
    return _SCHEMA_HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def insert_text(page: str, text: str | None = None) -> str:
    """Replace the text between the two marks of a page, by default with the reference.

    Raises:
        ValueError: the page lacks a mark, repeats one, or has them in the wrong order.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or BEGIN in tail or END in tail:
        raise ValueError(f"the page must contain the lines {BEGIN} and {END} once, in this order")
    return f"{head}{BEGIN}\n\n{reference_markdown() if text is None else text}\n{END}{tail}"


def reference_markdown() -> str:
    """A table of keys for each type of section, in Markdown."""
    return "\n".join(_table(section, path) for section, path in section_paths().items())


def section_paths(section: type[BaseModel] = Config, path: str = "") -> dict[type[BaseModel], str]:
    """All section types and the key under which each stands, in the order of the reference; `*` stands for any name.

    The sections of stages follow the model that they belong to, not `defaults`.
    """
    paths = {section: path}
    for name, field in [] if section is Stages else _fields(section):
        key = f"{path}.{name}".removeprefix(".") + (".*" if typing.get_origin(field.annotation) is dict else "")
        for inner in models_in(field.annotation):
            paths |= {
                type_: inner_path for type_, inner_path in section_paths(inner, key).items() if type_ not in paths
            }
    return paths


def _fields(section: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """The keys of a section, its own before those that it inherits."""
    own_fields = inspect.get_annotations(section)
    return sorted(section.model_fields.items(), key=lambda item: item[0] not in own_fields)


def _table(section: type[BaseModel], path: str) -> str:
    rows = ["| key | type | default | description |", "|---|---|---|---|"]
    for name, field in _fields(section):
        cells = (f"`{name}`", _type(field), _default(field), field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    title = "The top level" if section is Config else f"`{section.__name__}`"
    location = ["", f"Key: `{path}`"] if path else []
    return "\n".join([f"### {title}", "", section.__doc__ or "", *location, "", *rows, ""])


def _type(field: FieldInfo) -> str:
    text = ", ".join([_name(field.annotation), *_limits(field.metadata)])
    for names in (f"text (matching `{_NAME_PATTERN}`)", f"text, matching `{_NAME_PATTERN}`"):
        text = text.replace(names, "name")
    return text


def _name(annotation: Any) -> str:
    """A type in YAML's terms, with the limits of nested types in parentheses."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        limits = [limit for argument in arguments[1:] for limit in _limits(getattr(argument, "metadata", [argument]))]
        return _name(arguments[0]) + (f" ({', '.join(limits)})" if limits else "")
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(argument) for argument in arguments)
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"mapping of names to {_name(arguments[1])}"
    if origin in (list, tuple):
        return f"list of {_name(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[`{annotation.__name__}`](#{annotation.__name__.lower()})"
    return {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "empty"}[annotation]


def _limits(metadata: Iterable[Any]) -> list[str]:
    limits = ((text, getattr(constraint, name, None)) for constraint in metadata for name, text in _LIMITS.items())
    return [text.format(limit) for text, limit in limits if limit is not None]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "empty"
    if isinstance(default, BaseModel):
        values = default.model_dump(mode="json", exclude_unset=True)
        return f"`{json.dumps(values, ensure_ascii=False)}`" if values else "its own defaults"
    return f"`{json.dumps(default, ensure_ascii=False)}`"
