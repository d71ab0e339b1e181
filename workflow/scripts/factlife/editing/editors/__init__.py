"""Editors: requests in, changes of weights out. To add one, add its module, its line here and its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from factlife.editing.editors import alphaedit, emmet, locft, memit, rome

EDITORS: dict[str, Callable[..., Any]] = {
    "rome": rome.edit,
    "emmet": emmet.edit,
    "memit": memit.edit,
    "alphaedit": alphaedit.edit,
    "locft": locft.edit,
}
