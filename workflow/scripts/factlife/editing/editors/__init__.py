"""Editors: functions from requests to weight changes. A new editor needs a module, a line here and settings in the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from factlife.editing.editors import alphaedit, emmet, ft, locft, lora, memit, mend, rome, ultraedit

EDITORS: dict[str, Callable[..., Any]] = {
    "rome": rome.edit,
    "emmet": emmet.edit,
    "memit": memit.edit,
    "alphaedit": alphaedit.edit,
    "ultraedit": ultraedit.edit,
    "ft": ft.edit,
    "locft": locft.edit,
    "lora": lora.edit,
    "mend": mend.edit,
}
