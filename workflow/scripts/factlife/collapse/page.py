"""A page of generated texts, arms side by side."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from factlife.collapse.summary import GenerationKey
from factlife.world.tables import read_table

_STYLE = """
body { font: 14px/1.5 Helvetica, Arial, sans-serif; color: #222; margin: 2rem auto; padding: 0 1rem; max-width: 90rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; } p.lead { color: #555; margin-top: .3rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; } td p { margin: 0 0 .6rem; }
td, th { text-align: left; padding: .5rem .8rem .3rem 0; vertical-align: top; border-bottom: 1px solid #e5e5e5; }
th.number { width: 5.5rem; color: #555; font-weight: 600; }
mark { padding: 0 .15em; border-radius: 3px; } .true { background: #cdebdf; } .false { background: #f8d5bf; }
.unknown { background: #e5e5e5; } i { color: #999; }
"""


def samples_page(folders: Mapping[GenerationKey, Path], *, n_texts: int = 4) -> str:
    """One self-contained HTML page with one table per model, for each model's first seed.

    A table has one row per generation and one column per arm.

    Args:
        folders: folder of each generation.
        n_texts: number of texts to show of each generation.
    """
    first_seeds: dict[str, int] = {}
    for key in folders:
        first_seeds.setdefault(key.model, key.seed)
    tables = []
    for model, seed in first_seeds.items():
        cells = {
            (key.generation, key.arm): _texts_html(folder, n_texts)
            for key, folder in folders.items()
            if (key.model, key.seed) == (model, seed)
        }
        title = f"<h2>{html.escape(model)}</h2>" if len(first_seeds) > 1 else ""
        tables.append(title + _table_html(cells))
    lead = (
        "The first texts of each generation, unedited. Colours mark values as <mark class=true>true</mark>, "
        "<mark class=false>false</mark> or <mark class=unknown>about an unknown subject or with an unknown value</mark>."
    )
    body = f"<h1>Generated texts</h1><p class=lead>{lead}</p>{''.join(tables)}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Texts</title><style>{_STYLE}</style>{body}</html>\n"
    )


def _table_html(cells: Mapping[tuple[int, str], str]) -> str:
    """A table of cells by generation and arm."""
    arms = list(dict.fromkeys(arm for _, arm in cells))
    lines = [f"<tr><th class=number>generation{''.join(f'<th>{html.escape(arm)}' for arm in arms)}"]
    for generation in sorted({generation for generation, _ in cells}):
        columns = "".join(f"<td>{cells.get((generation, arm), '')}" for arm in arms)
        lines.append(f"<tr><th class=number>{generation}{columns}")
    return f"<table>{''.join(lines)}</table>"


def _texts_html(folder: Path, n_texts: int) -> str:
    texts = read_table(folder / "samples.parquet")["text"].head(n_texts)
    path = folder / "statements.parquet"
    statements = read_table(path).query("source == 'synthetic'") if path.exists() else None
    return "".join(f"<p>{_mark_values(text, statements, i) or '<i>empty</i>'}" for i, text in enumerate(texts))


def _mark_values(text: str, statements: pd.DataFrame | None, index: int) -> str:
    text = html.escape(text)
    if statements is None:
        return text
    verdicts = statements[statements["text_index"] == index].set_index("value")["verdict"]
    verdicts = {html.escape(value): verdict for value, verdict in verdicts.items()}
    pattern = "|".join(rf"\b{re.escape(value)}(?!\w)" for value in sorted(verdicts, key=len, reverse=True))
    if not verdicts:
        return text
    return re.sub(pattern, lambda match: f"<mark class={verdicts[match[0]]}>{match[0]}</mark>", text)
