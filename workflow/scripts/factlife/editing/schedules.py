"""Schedules: single edits with rollback, one batch, batches upon one another; and what is judged when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from safetensors.torch import save_file

from factlife.config.editing import Editor, uses_original_model
from factlife.editing import compute_z
from factlife.editing.editable import Deltas, EditableModel, apply_deltas, merge_deltas
from factlife.editing.editors import EDITORS
from factlife.editing.evaluate import evaluate_probes
from factlife.editing.metrics import NO_METRICS, EditMetrics
from factlife.editing.requests import scheduled_requests, separate_same_subject, usable_probes
from factlife.world.tables import write_table


@dataclass
class EditResult:
    """What an editor did.

    Attributes:
        deltas: changes of weights by parameter; of single edits ``{parameter}@{edit_id}``.
        verdicts: one row per phase, batch and probe.
        metrics: one row per phase, batch and thing that was measured.
    """

    deltas: Deltas = field(default_factory=dict)
    verdicts: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)


def run_editor(
    target: EditableModel,
    requests: pd.DataFrame,
    probes: pd.DataFrame,
    editor: Editor,
    *,
    metrics: EditMetrics = NO_METRICS,
    batch_tokens: int = 8192,
) -> EditResult:
    """Write requests as the editor's schedule says and judge before, after each batch and at the end.

    Args:
        target: the model; its weights have the same bits when this returns. Of single edits, what it has ``found`` is found
            ``apart``, and without any, all is found at once.
        requests: validated; those that were dropped are left out.
        probes: of ``requests``.
        editor: its settings.
        metrics: what is measured beside the probes, before, after each single edit and where all edits are judged.
        batch_tokens: tokens in a batch of probes; no verdict depends on it.

    Returns:
        The changes, and verdicts with the columns ``schedule, phase, n_edits, edit_id, probe_id, metric, about`` and those
        of ``judge``, and ``unchanged``: the most probable next token is that of the original model. ``phase`` is ``pre``,
        ``post`` (after a batch, about its own edits) or ``end`` (about all edits so far). The measures have the columns
        ``schedule, phase, n_edits`` and those of ``Measures``; after single edits no text is read for perplexity.
    """
    schedule = editor.schedule
    requests = scheduled_requests(requests, schedule)
    probes = usable_probes(
        probes, set() if schedule.kind == "single" else set(requests["edit_id"]), set(requests["edit_id"])
    )
    if schedule.kind != "single":
        probes = separate_same_subject(probes, set(requests["entity_id"]))
    before = evaluate_probes(target.model, target.tokenizer, probes, batch_tokens=batch_tokens)
    original = before["first_token"].set_axis(probes["probe_id"])
    result, parts, measured = EditResult(), [], []

    def look(rows: pd.DataFrame, verdicts: pd.DataFrame, phase: str, n_edits: int) -> None:
        table = pd.concat([rows[["edit_id", "probe_id", "metric", "fact_id"]], verdicts], axis=1)
        table["unchanged"] = (table["first_token"] == rows["probe_id"].map(original)).astype("boolean")
        named = {"schedule": schedule.kind, "phase": phase, "n_edits": n_edits, "d_key": target.parts.d_mlp}
        parts.append(table.assign(**named))

    def measure(rows: pd.DataFrame, deltas: Deltas, phase: str, n_edits: int) -> None:
        found = metrics(target, rows, deltas, whole=phase != "post")
        measured.append(found.assign(schedule=schedule.kind, phase=phase, n_edits=n_edits))

    look(probes, before, "pre", 0)
    measure(requests, {}, "pre", 0)
    write = EDITORS[editor.kind]
    if schedule.kind == "single":
        found = target.target_vectors
        if found is None and uses_original_model(editor):
            found = compute_z.compute_target_vectors(target, requests, editor.site, editor.values, apart=True)
        for number, (row, about) in enumerate(_singles(requests, probes)):
            alone = replace(target, target_vectors=found.of(number)) if found else target
            deltas = write(alone, row, editor, {})
            with apply_deltas(target.model, deltas):
                look(
                    about, evaluate_probes(target.model, target.tokenizer, about, batch_tokens=batch_tokens), "post", 1
                )
                measure(row if number < metrics.settings.generation_requests else row.head(0), deltas, "post", 1)
            result.deltas |= {f"{name}@{row['edit_id'].iloc[0]}": change for name, change in deltas.items()}
    else:
        size = schedule.n_edits if schedule.kind == "batch" else schedule.edits_per_batch
        starts = range(0, len(requests), size)
        looks = {
            starts[(len(starts) * point - 1) // schedule.n_evaluations]
            for point in range(1, schedule.n_evaluations + 1)
        }
        memory: dict = {}
        for start in starts:
            batch = requests.iloc[start : start + size].reset_index(drop=True)
            done = requests.head(start + size)
            with apply_deltas(target.model, result.deltas):
                result.deltas = merge_deltas(result.deltas, write(target, batch, editor, memory))
            at_end = (probes["edit_id"] == "") | probes["edit_id"].isin(done["edit_id"])
            asked = probes[(at_end if start in looks else False) | probes["edit_id"].isin(batch["edit_id"])]
            rows = asked.reset_index(drop=True)
            with apply_deltas(target.model, result.deltas):
                verdicts = evaluate_probes(target.model, target.tokenizer, rows, batch_tokens=batch_tokens)
                if start in looks:
                    measure(done, result.deltas, "end", len(done))
            own = rows["edit_id"].isin(batch["edit_id"])
            look(rows[own].reset_index(drop=True), verdicts[own].reset_index(drop=True), "post", len(done))
            if start in looks:
                look(rows, verdicts, "end", len(done))
    result.verdicts = pd.concat(parts, ignore_index=True)
    result.metrics = pd.concat(measured, ignore_index=True)
    return result


def _singles(requests: pd.DataFrame, probes: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Each request with its probes, the subject's other facts, and its share of all facts, each asked once in all."""
    recall = probes[probes["metric"] == "recall"]
    for number in range(len(requests)):
        row = requests.iloc[[number]].reset_index(drop=True)
        related = recall["fact_id"].isin(row["related_fact_ids"].iloc[0])
        shared = pd.Series(range(len(recall)), index=recall.index) % len(requests) == number
        others = recall[(related | shared) & (recall["fact_id"] != row["fact_id"].iloc[0])]
        own = probes[probes["edit_id"] == row["edit_id"].iloc[0]]
        yield row, separate_same_subject(pd.concat([own, others], ignore_index=True), {row["entity_id"].iloc[0]})


def save_result(run: EditResult, folder: str | Path, *, model: str, seed: str, editor: str) -> None:
    """Write ``deltas.safetensors``, and ``edits.parquet`` and ``metrics.parquet``, verdicts and measures row by row."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(
        {name: change.cpu().contiguous() for name, change in run.deltas.items()}, Path(folder) / "deltas.safetensors"
    )
    for table, name in ((run.verdicts, "edits"), (run.metrics, "metrics")):
        named = table.assign(model=model, seed=int(seed), editor=editor)
        first = ["model", "seed", "editor"]
        write_table(
            named[[*first, *(column for column in named.columns if column not in first)]],
            Path(folder) / f"{name}.parquet",
        )
