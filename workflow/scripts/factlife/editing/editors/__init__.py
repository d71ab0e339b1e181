"""Editors: requests in, changes of weights out. To add one, add its module, its line here and its settings."""

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
