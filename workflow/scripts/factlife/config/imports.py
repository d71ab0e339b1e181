"""Classes of the user's own, named by import path: `kind: my_package.my_module:MyEditor`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import WrapValidator

from factlife.config.base import Section


def importable(base: type[Section]) -> WrapValidator:
    """Lets a union of kinds also take the import path of a subclass of ``base``, which then validates its own keys."""

    def validate(value: Any, validate_kind: Any) -> Any:
        if isinstance(value, base):
            return value
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if isinstance(kind, str) and ":" in kind:
            return import_class(kind, base).model_validate(value)
        return validate_kind(value)

    return WrapValidator(validate)


def import_class(path: str, base: type[Section]) -> type[Section]:
    """The class at an import path, looked up in the working directory and in Python's own path.

    Raises:
        ValueError: the class cannot be imported, or is no subclass of ``base``.
    """
    module, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        user_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`{path}` cannot be imported ({error}); put the module into the folder in which Snakemake runs, or on PYTHONPATH"
        ) from None
    if not (isinstance(user_class, type) and issubclass(user_class, base)):
        raise ValueError(f"`{path}` is no subclass of {base.__module__}.{base.__name__}")
    return user_class
