"""Editors: functions from requests to weight changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from factlife.config.editing import CustomEditor, Editor
from factlife.editing.editable import Deltas, EditableModel
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


def compute_deltas(
    editor: Editor | CustomEditor, target: EditableModel, requests: pd.DataFrame, memory: dict
) -> Deltas:
    """The weight changes with which an editor writes a batch of requests.

    Args:
        editor: its settings.
        target: the model to edit.
        requests: the batch.
        memory: kept from batch to batch.
    """
    if isinstance(editor, CustomEditor):
        return editor.edit(target, requests, memory)
    return EDITORS[editor.kind](target, requests, editor, memory)
