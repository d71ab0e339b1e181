"""Base class, shared types and helpers of all config sections."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Section(BaseModel):
    """A section of the config: unknown keys are errors, and values are frozen.

    Attributes:
        renamed: old keys and the keys of this section that replace them, for error messages.
        moved: old keys and the full paths of the keys that replace them, with `*` for any name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    renamed: ClassVar[dict[str, str]] = {}
    moved: ClassVar[dict[str, str]] = {}


Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Fraction
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


def key(default: Any, description: str, **limits: Any) -> Any:
    """A key with its default (``...`` if required) and a description for the reference."""
    if default.__class__ in (list, dict):
        return Field(default_factory=default.copy, description=description, **limits)
    return Field(default, description=description, **limits)


def hint(name: str, names: Iterable[str]) -> str:
    """Suggest the known name closest to an unknown one, or list all known names."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean `{matches[0]}`?" if matches else f"there are {', '.join(names) or 'none'}"


def missing(where: str, name: str, section: Collection[str], kind: str) -> Iterable[str]:
    """Message that a section lacks a name, with the closest name that it has."""
    if name not in section:
        yield f"{where} is `{name}`, which is not in {kind}; {hint(name, section)}"


def parse(kind: Any, mapping: Mapping[str, Any]) -> Any:
    """Parse a section of a valid config, such as ``parse(World, config["worlds"]["people"])``."""
    return TypeAdapter(kind).validate_python(mapping)


def models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """Section types inside a type annotation."""
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def kind_names(union: Any) -> list[str]:
    """Values of `kind` that tell the members of a union apart."""
    return [typing.get_args(member.model_fields["kind"].annotation)[0] for member in models_in(union)]
