"""What all sections of the config share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the config: unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


def key(default: Any, description: str, **limits: Any) -> Any:
    """A key with its default (``...`` where the user must choose) and a description for the reference."""
    if default.__class__ in (list, dict):
        return Field(default_factory=default.copy, description=description, **limits)
    return Field(default, description=description, **limits)
