"""What a run found, in words and numbers: one sentence or two for each stage, read from its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from factlife.ledger.summary_tables import (
    NotMeasuredError,
    Tables,
    first_row,
    format_estimate,
    format_percent,
    get_table,
    pooled_rows,
    ranker_difference,
    select_first,
    select_rows,
)


def report_findings(tables: Tables) -> list[tuple[str, str]]:
    """Title and text of every finding, in the order of the story; what was not measured is said to be so.

    Args:
        tables: summaries by name, such as ``recall``, with the columns of ``results/tables``.
    """
    found = []
    for title, tell in FINDINGS.items():
        try:
            found.append((title, tell(tables)))
        except NotMeasuredError:
            found.append((title, "Not measured in this run."))
    return found


def format_findings(found: Sequence[tuple[str, str]], versions: Mapping[str, str]) -> str:
    """Findings as a numbered list of the report's first page, and what they were made with."""
    lines = [f"{number}. **{title}.** {text}" for number, (title, text) in enumerate(found, 1)]
    made = ", ".join(f"{package} {version}" for package, version in versions.items())
    return "\n".join([*lines, "", f"Versions: {made}. Formulas and their sources: ``docs/methods.md``."]) + "\n"


def learning(tables: Tables) -> str:
    """Recall at the end of training, of wordings that were trained and that were not, and of people never taught."""
    of = select_first(get_table(tables, "recall"), "model", "seed")
    last = select_rows(of, step=of["step"].max(), exposures="all", relation="all", metric="first_token_accuracy")
    trained, unseen = (format_percent(first_row(last, probe_kind=kind)) for kind in ("forward", "paraphrase"))
    told = f"after {last['step'].iloc[0]} steps {_name(of)} completes {trained} of statements in trained wordings and "
    told += f"{unseen} in wordings that it never saw (first token)"
    untaught = last[last["probe_kind"] == "untaught"]
    if len(untaught):
        told += f"; about people it was never taught, {format_percent(untaught.iloc[0])} by chance"
    return _sentence([told])


def tokenization(tables: Tables) -> str:
    """Steps to half of the recall, arm by arm."""
    return _arms(tables, "tokenization", "steps_to_50", "steps until half of the facts are recalled")


def augmentation(tables: Tables) -> str:
    """Questions answered about subjects whose questions were never trained."""
    told = "questions answered about people whose questions were never trained"
    return _arms(tables, "augmentation", "final_question_exact_match", told, group="unasked", share=True)


def forgetting(tables: Tables) -> str:
    """What is kept of the old while the new is learnt."""
    told = "kept of what was known before new facts were taught"
    return _arms(tables, "interference", "kept", told, group="early", share=True)


def location(tables: Tables) -> str:
    """Token and layer whose MLP brings back most of the answer, model by model."""
    table = select_rows(get_table(tables, "tracing"), corruption="replacement")
    parts = []
    for _, traced in table.groupby("model", sort=False):
        of = select_first(traced, "seed")
        mlp = select_rows(of, metric="indirect_effect_logit_diff", component="mlp", window=1)
        peak = mlp.loc[mlp["estimate"].idxmax()]
        lost = first_row(of, metric="total_effect_logit_diff")
        if lost["ci_low"] <= 0:
            parts.append(f"in {_name(of)}, nowhere, because that name takes nothing away")
            continue
        share = peak[["estimate", "ci_low", "ci_high"]] / lost["estimate"]
        parts.append(
            f"in {_name(of)}, at the {peak['token_role'].replace('_', ' ')} token in layer {int(peak['layer'])}, "
            f"bringing back {format_percent(share)}"
        )
    told = "where one MLP brings back most of the logit difference that another subject's name takes away"
    return _sentence([f"{told}: {'; '.join(parts)}"])


def circuit(tables: Tables) -> str:
    """How much of the behaviour a few edges carry on subjects that did not choose them."""
    table = select_first(get_table(tables, "circuits"), "model", "seed", "method")
    table = select_rows(table[table[["control", "step", "n_edges"]].isna().all(axis=1)], evaluated_on="validation")
    kept, best = (select_rows(table, metric=metric) for metric in ("faithfulness", "random_best"))
    share, strongest = kept["fraction"].iloc[0], best.loc[best["estimate"].idxmax()]
    told = ", ".join(f"{format_percent(row)} of the answer to *{row['relation']}*" for _, row in kept.iterrows())
    return _sentence(
        [
            f"{100 * share:g} % of the edges carry {told} on subjects that did not choose them; the best of "
            f"{strongest['n']} random circuits of that size, {100 * strongest['estimate']:.0f} %"
        ]
    )


def editing(tables: Tables) -> str:
    """The three editors of the highest score: what they write and what they leave alone."""
    table = select_rows(select_first(get_table(tables, "edits"), "model", "seed"), judge="argmax")
    final = table[table["phase"] == table["schedule"].eq("single").map({True: "post", False: "end"})]
    final = final[final["n_edits"] == final.groupby(["editor", "schedule"])["n_edits"].transform("max")]
    parts = []
    for row in select_rows(final, metric="score").sort_values("estimate", ascending=False)[:3].itertuples():
        of = select_rows(final, editor=row.editor, schedule=row.schedule)
        written, held, left = (
            format_percent(first_row(of, metric=metric)) for metric in ("efficacy", "paraphrase", "neighbourhood")
        )
        edits = "one edit at a time" if row.schedule == "single" else f"{row.n_edits} edits"
        parts.append(f"*{row.editor}* ({edits}) {written}, {held}, {left}")
    return _sentence([f"new values said, said in other wordings, neighbours left right: {'; '.join(parts)}"])


def survival(tables: Tables) -> str:
    """What is left of edits after further training, beside facts that were never edited."""
    table = select_first(get_table(tables, "edit_survival"), "model", "seed", "editor", "finetuning", "trained_layers")
    table = select_rows(table, metric="retention", step=table["step"].max())
    parts = [
        f"*{data}* text {format_percent(first_row(of, group='edits'))} (facts never edited: {format_percent(first_row(of, group='control'))})"
        for data, of in table.groupby("data", sort=False)
    ]
    of = table.iloc[0]
    told = f"left of *{of['editor']}*'s edits after {of['step']} more steps of training (*{of['finetuning']}*)"
    return _sentence([f"{told} on {'; on '.join(parts)}"])


def influence(tables: Tables) -> str:
    """How high rankers put a document that states the fact, beside word overlap and chance."""
    table = select_rows(
        get_table(tables, "influence"), metric="mrr", relevance="chain", document_kind="all", query_set="all"
    )
    parts = []
    for _, of in select_rows(table, depth="all", group="all").groupby("model", sort=False):
        ranked = select_first(of, "seed").sort_values("estimate", ascending=False)
        best, *others = ranked.itertuples()
        alike = [f"*{row.ranker}*" for row in others if not _ahead(tables, best, row.ranker)]
        unclear = f" (no clear difference from {', '.join(alike)})" if alike else ""
        beside = [f", *{row.ranker}* {row.estimate:.2f}" for row in others if row.ranker in ("bm25", "random")]
        parts.append(f"for {_name(of)}, *{best.ranker}* {format_estimate(best._asdict())}{unclear}{''.join(beside)}")
    told = "the ranker that puts documents which state a fact highest (mean reciprocal rank)"
    return _sentence([f"{told}: {'; '.join(parts)}"])


def collapse(tables: Tables) -> str:
    """What the last generation of each arm still knows, of all facts and of rare ones."""
    table = select_rows(select_first(get_table(tables, "collapse"), "seed"), metric="recall")
    parts = []
    for arm, of in table.groupby("arm", sort=False):
        last = select_rows(of, generation=of["generation"].max())
        text = f"*{arm}* {format_percent(first_row(last, group='all'))}"
        tail = last[last["group"] == "tail"]
        parts.append(text + (f", of rare ones {format_percent(tail.iloc[0])}" if len(tail) else ""))
    return _sentence([f"facts whose whole value generation {table['generation'].max()} recalls: {'; '.join(parts)}"])


FINDINGS: dict[str, Callable[[Tables], str]] = {
    "Learning": learning,
    "Tokenization": tokenization,
    "Augmentation": augmentation,
    "Forgetting": forgetting,
    "Location": location,
    "Circuit": circuit,
    "Editing": editing,
    "Survival of edits": survival,
    "Influence": influence,
    "Collapse": collapse,
}


def _arms(tables: Tables, experiment: str, metric: str, told: str, group: str = "", share: bool = False) -> str:
    """Each arm's value, and how far it is from the control's."""
    table = pooled_rows(select_rows(get_table(tables, "dynamics"), experiment=experiment, metric=metric))
    # Effects of factors have no arm of their own.
    table = table[table["arm"] != "all"]
    table = select_rows(table, group=group) if group else table
    scale, unit = (100, " points") if share else (1, "")
    parts = []
    for row in table.itertuples():
        text = f"*{row.arm}* {format_percent(row._asdict()) if share else format_estimate(row._asdict(), 0)}"
        if row.arm != row.control:
            unclear = "" if row.effect_low > 0 or row.effect_high < 0 else ", no clear difference"
            effect, low, high = (
                f"{scale * each:+.0f}".replace("-", "−") for each in (row.effect, row.effect_low, row.effect_high)
            )
            text += f", which is {effect}{unit} ({low} to {high}) against *{row.control}*{unclear}"
        parts.append(text)
    return _sentence([f"{told}: {'; '.join(parts)}"])


def _ahead(tables: Tables, best: Any, other: str) -> bool:
    """Whether a ranker is ahead of another on the same queries, with an interval that holds no zero."""
    keys = {"model": best.model, "seed": best.seed}
    return ranker_difference(tables, "mrr", best.ranker, other, **keys)["ci_low"] > 0


def _name(table: pd.DataFrame) -> str:
    return f"*{table['model'].iloc[0]}*"


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
