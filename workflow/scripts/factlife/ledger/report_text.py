"""The findings on the report's first page: a sentence or two for each stage, written from its summary tables."""

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
    """Title and text of every finding, in the order of the stages; the text says if a run did not measure it.

    Args:
        tables: summaries by name, such as ``recall``, with the columns of ``results/tables``.
    """
    findings = []
    for title, write_finding in FINDINGS.items():
        try:
            findings.append((title, write_finding(tables)))
        except NotMeasuredError:
            findings.append((title, "Not measured in this run."))
    return findings


def format_findings(findings: Sequence[tuple[str, str]], versions: Mapping[str, str]) -> str:
    """Findings as a numbered list in reStructuredText, followed by package versions."""
    lines = [f"{i}. **{title}.** {text}" for i, (title, text) in enumerate(findings, 1)]
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    return "\n".join([*lines, "", f"Versions: {packages}. Formulas and their sources: ``docs/methods.md``."]) + "\n"


def learning(tables: Tables) -> str:
    """Recall at the end of training: trained wordings, unseen wordings and unseen people."""
    rows = select_first(get_table(tables, "recall"), "model", "seed")
    final = select_rows(rows, step=rows["step"].max(), exposures="all", relation="all", metric="first_token_accuracy")
    forward, paraphrase = (format_percent(first_row(final, probe_kind=kind)) for kind in ("forward", "paraphrase"))
    text = f"after {final['step'].iloc[0]} steps {_model_name(rows)} completes {forward} of statements in trained wordings "
    text += f"and {paraphrase} in unseen wordings (first token)"
    unseen = final[final["probe_kind"] == "unseen"]
    if len(unseen):
        text += f"; for people absent from training, chance alone gives {format_percent(unseen.iloc[0])}"
    return _sentence(text)


def tokenization(tables: Tables) -> str:
    """Steps until half of the facts are recalled, by arm."""
    return _compare_arms(tables, "tokenization", "steps_to_50", "steps until half of the facts are recalled")


def augmentation(tables: Tables) -> str:
    """Questions answered about people whose questions are not in the training data."""
    subject = "questions answered about people without questions in training"
    return _compare_arms(
        tables, "augmentation", "final_question_exact_match", subject, group="qa_heldout", fraction=True
    )


def forgetting(tables: Tables) -> str:
    """Old facts still recalled after training on new facts."""
    subject = "old facts still recalled after training on new facts"
    return _compare_arms(tables, "interference", "retention", subject, group="old", fraction=True)


def location(tables: Tables) -> str:
    """Token and layer of the MLP that restores most of the answer, by model."""
    table = select_rows(get_table(tables, "tracing"), corruption="replacement")
    parts = []
    for _, model_rows in table.groupby("model", sort=False):
        rows = select_first(model_rows, "seed")
        mlp = select_rows(rows, metric="indirect_effect_logit_diff", component="mlp", window=1)
        peak = mlp.loc[mlp["estimate"].idxmax()]
        total_effect = first_row(rows, metric="total_effect_logit_diff")
        if total_effect["ci_low"] <= 0:
            parts.append(f"in {_model_name(rows)}, none, because replacing the subject changes nothing")
            continue
        fraction = peak[["estimate", "ci_low", "ci_high"]] / total_effect["estimate"]
        parts.append(
            f"in {_model_name(rows)}, layer {int(peak['layer'])} at the {peak['token_role'].replace('_', ' ')} token, "
            f"{format_percent(fraction)}"
        )
    subject = "the MLP that restores most of the logit difference lost when the subject is replaced"
    return _sentence(f"{subject}: {'; '.join(parts)}")


def circuit(tables: Tables) -> str:
    """Faithfulness of a small circuit on validation subjects, and of random circuits of the same size."""
    table = select_first(get_table(tables, "circuits"), "model", "seed", "method")
    table = select_rows(table[table[["control", "step", "n_edges"]].isna().all(axis=1)], evaluated_on="validation")
    circuits, random_best = (select_rows(table, metric=metric) for metric in ("faithfulness", "random_best"))
    fraction, strongest = circuits["fraction"].iloc[0], random_best.loc[random_best["estimate"].idxmax()]
    answers = ", ".join(f"{format_percent(row)} of the answer to *{row['relation']}*" for _, row in circuits.iterrows())
    return _sentence(
        f"{100 * fraction:g} % of the edges recover {answers} on validation subjects; the best of {strongest['n']} random "
        f"circuits of the same size recovers {100 * strongest['estimate']:.0f} %"
    )


def editing(tables: Tables) -> str:
    """Efficacy, paraphrase and neighbourhood accuracy of the three editors with the highest score."""
    table = select_rows(select_first(get_table(tables, "edits"), "model", "seed"), criterion="argmax")
    final = table[table["phase"] == table["schedule"].eq("single").map({True: "post", False: "end"})]
    final = final[final["n_edits"] == final.groupby(["editor", "schedule"])["n_edits"].transform("max")]
    parts = []
    for row in select_rows(final, metric="score").sort_values("estimate", ascending=False)[:3].itertuples():
        rows = select_rows(final, editor=row.editor, schedule=row.schedule)
        metrics = ("efficacy", "paraphrase", "neighbourhood")
        accuracies = ", ".join(format_percent(first_row(rows, metric=metric)) for metric in metrics)
        edits = "one edit at a time" if row.schedule == "single" else f"{row.n_edits} edits"
        parts.append(f"*{row.editor}* ({edits}) {accuracies}")
    return _sentence(f"efficacy, paraphrase and neighbourhood accuracy: {'; '.join(parts)}")


def survival(tables: Tables) -> str:
    """Edits that survive further training, and facts recalled after it that were never edited."""
    table = select_first(get_table(tables, "edit_survival"), "model", "seed", "editor", "finetuning", "trained_layers")
    table = select_rows(table, metric="retention", step=table["step"].max())
    parts = [
        f"on *{data}* text {format_percent(first_row(rows, group='edits'))}, against "
        f"{format_percent(first_row(rows, group='control'))} of facts never edited"
        for data, rows in table.groupby("data", sort=False)
    ]
    row = table.iloc[0]
    subject = f"edits of *{row['editor']}* that survive {row['step']} more steps of training (*{row['finetuning']}*)"
    return _sentence(f"{subject}: {'; '.join(parts)}")


def influence(tables: Tables) -> str:
    """The best ranker of documents that state a fact, beside word overlap and chance."""
    table = select_rows(
        get_table(tables, "influence"), metric="mrr", relevance="chain", document_kind="all", query_set="all"
    )
    parts = []
    for _, rows in select_rows(table, depth="all", group="all").groupby("model", sort=False):
        best, *baselines = select_first(rows, "seed").sort_values("estimate", ascending=False).itertuples()
        ties = [f"*{row.ranker}*" for row in baselines if not _is_better(tables, best, row.ranker)]
        unclear = f" (no clear difference from {', '.join(ties)})" if ties else ""
        simple = [f", *{row.ranker}* {row.estimate:.2f}" for row in baselines if row.ranker in ("bm25", "random")]
        parts.append(
            f"for {_model_name(rows)}, *{best.ranker}* {format_estimate(best._asdict())}{unclear}{''.join(simple)}"
        )
    subject = "the ranker that ranks documents which state a fact highest (mean reciprocal rank)"
    return _sentence(f"{subject}: {'; '.join(parts)}")


def collapse(tables: Tables) -> str:
    """Recall of the last generation of each model's arms: all facts and rare ones."""
    table = select_rows(get_table(tables, "collapse"), metric="recall")
    parts = []
    for _, model_rows in table.groupby("model", sort=False):
        arm_texts = []
        for arm, rows in select_first(model_rows, "seed").groupby("arm", sort=False):
            final = select_rows(rows, generation=rows["generation"].max())
            text = f"*{arm}* {format_percent(first_row(final, group='all'))}"
            tail = final[final["group"] == "tail"]
            arm_texts.append(text + (f" and {format_percent(tail.iloc[0])} of rare facts" if len(tail) else ""))
        parts.append(f"in {_model_name(model_rows)}, {', '.join(arm_texts)}")
    return _sentence(f"facts whose whole value generation {table['generation'].max()} recalls: {'; '.join(parts)}")


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


def _compare_arms(
    tables: Tables, experiment: str, metric: str, subject: str, group: str = "", fraction: bool = False
) -> str:
    """Each arm's value and its difference from the control."""
    table = pooled_rows(select_rows(get_table(tables, "dynamics"), experiment=experiment, metric=metric))
    # Rows of factors belong to no single arm.
    table = table[table["arm"] != "all"]
    table = select_rows(table, group=group) if group else table
    scale, unit = (100, " points") if fraction else (1, "")
    parts = []
    for row in table.itertuples():
        text = f"*{row.arm}* {format_percent(row._asdict()) if fraction else format_estimate(row._asdict(), 0)}"
        if row.arm != row.control:
            unclear = "" if row.effect_low > 0 or row.effect_high < 0 else ", no clear difference"
            effect, low, high = (
                f"{scale * value:+.0f}".replace("-", "−") for value in (row.effect, row.effect_low, row.effect_high)
            )
            text += f", which is {effect}{unit} ({low} to {high}) against *{row.control}*{unclear}"
        parts.append(text)
    return _sentence(f"{subject}: {'; '.join(parts)}")


def _is_better(tables: Tables, best: Any, ranker: str) -> bool:
    """Whether the best ranker beats another one on the same queries, with an interval above zero."""
    keys = {"model": best.model, "seed": best.seed}
    return ranker_difference(tables, "mrr", best.ranker, ranker, **keys)["ci_low"] > 0


def _model_name(table: pd.DataFrame) -> str:
    return f"*{table['model'].iloc[0]}*"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
