"""A page of texts that generations wrote, arms side by side."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

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


def page(generations: Sequence[tuple[str, int, int, Path]], *, texts: int = 4) -> str:
    """One self-contained HTML page: a row a generation, a column an arm, of each arm's first seed.

    Args:
        generations: arm, seed, generation and folder.
        texts: the first so many texts that each generation wrote.
    """
    first: dict[str, int] = {}
    for arm, seed, _, _ in generations:
        first.setdefault(arm, seed)
    cells = {
        (generation, arm): _texts(folder, texts) for arm, seed, generation, folder in generations if first[arm] == seed
    }
    lines = [f"<tr><th class=number>generation{''.join(f'<th>{html.escape(arm)}' for arm in first)}"]
    for generation in sorted({generation for generation, _ in cells}):
        columns = "".join(f"<td>{cells.get((generation, arm), '')}" for arm in first)
        lines.append(f"<tr><th class=number>{generation}{columns}")
    lead = (
        "The first texts of each generation, as they were written. Values are marked: <mark class=true>true</mark>, "
        "<mark class=false>false</mark>, <mark class=unknown>of nobody known, or no value of this kind</mark>."
    )
    body = f"<h1>What generations write</h1><p class=lead>{lead}</p><table>{''.join(lines)}</table>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Texts</title><style>{_STYLE}</style>{body}</html>\n"
    )


def _texts(folder: Path, count: int) -> str:
    texts = read_table(folder / "samples.parquet")["text"].head(count)
    path = folder / "statements.parquet"
    stated = read_table(path).query("source == 'synthetic'") if path.exists() else None
    return "".join(f"<p>{_marked(text, stated, number) or '<i>empty</i>'}" for number, text in enumerate(texts))


def _marked(text: str, stated: pd.DataFrame | None, number: int) -> str:
    text = html.escape(text)
    if stated is None:
        return text
    verdicts = stated[stated["text"] == number].set_index("value")["verdict"]
    verdict = {html.escape(value): one for value, one in verdicts.items()}
    pattern = "|".join(rf"\b{re.escape(value)}(?!\w)" for value in sorted(verdict, key=len, reverse=True))
    return (
        re.sub(pattern, lambda found: f"<mark class={verdict[found[0]]}>{found[0]}</mark>", text) if verdict else text
    )
