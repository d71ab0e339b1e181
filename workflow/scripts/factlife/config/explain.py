"""Error messages that name the user's key and the remedy."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from factlife.config.base import Section, hint, models_in
from factlife.config.imports import import_class


def explain_error(error: Mapping[str, Any], config: Mapping[str, Any], config_type: type[BaseModel]) -> str:
    """Explain one of pydantic's errors: the user's key, its value and the remedy."""
    # Pydantic's location also names the member of a union; users know only the keys that they wrote.
    path, value = [], config
    for part in error["loc"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            if part != error["loc"][-1] or error["type"] not in ("missing", "extra_forbidden"):
                continue
        path.append(str(part))
    full_key = ".".join(path) or "config"
    match error["type"]:
        case "extra_forbidden":
            section = _type_at(config_type, error["loc"][:-1])
            if not hasattr(section, "model_fields"):  # A union, one of whose members is a class of the user's own.
                section = import_class(_value_at(config, path[:-1])["kind"], Section)
            if new := section.renamed.get(path[-1]):
                return f"{full_key} is now called `{new}`; rename the key"
            if new := section.moved.get(path[-1]):
                return f"{full_key} has moved to {new}"
            suggestion = hint(path[-1], section.model_fields)
            # A key that belongs to another kind probably comes from a default entry of the same name.
            if len(error["loc"]) > len(path) and error["loc"][-2] != path[-2] and not suggestion.startswith("did"):
                suggestion += "; it may come from config/config.yaml, which is merged into your config: use a new name"
            return f"{full_key} is not a key of the config; {suggestion}"
        case "missing":
            return (
                f"{full_key} is missing: {_type_at(config_type, error['loc'][:-1]).model_fields[path[-1]].description}"
            )
        case "union_tag_not_found" | "union_tag_invalid":
            tag = error["ctx"]["discriminator"].strip("'")
            tags = ", ".join(_by_tag(_type_at(config_type, error["loc"])))
            problem = f"is {error['input'][tag]!r}" if tag in error["input"] else "is missing"
            return f"{full_key}.{tag} {problem}: must be one of {tags}"
        case "string_pattern_mismatch":
            rule = "names consist of lower-case letters, digits and hyphens, and start with a letter or digit"
            return f"{full_key} is {error['input']!r}: {rule}"
        case "value_error":
            return f"{full_key}: {error['ctx']['error']}"
    return f"{full_key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _value_at(config: Any, path: Iterable[str]) -> Any:
    for part in path:
        config = config[part]
    return config


def _type_at(config_type: type[BaseModel], location: Iterable[str | int]) -> Any:
    """The type at one of pydantic's locations, which also name the tags of unions."""
    annotation: Any = config_type
    for part in location:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        if fields := getattr(annotation, "model_fields", None):
            annotation = fields[part].annotation
        elif typing.get_origin(annotation) in (list, dict):
            annotation = typing.get_args(annotation)[-1]
        else:
            annotation = _by_tag(annotation)[str(part)]
        members = typing.get_args(annotation)
        annotation = members[0] if types.NoneType in members else annotation
    return annotation


def _by_tag(union: Any) -> dict[str, type[BaseModel]]:
    tags = ((next(iter(model.model_fields.values())).annotation, model) for model in models_in(union))
    return {typing.get_args(literal)[0]: model for literal, model in tags}
