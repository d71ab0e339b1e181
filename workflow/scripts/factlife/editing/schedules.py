"""Schedules: single edits with rollback, one batch, or batches on top of each other, with their evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from safetensors.torch import save_file

from factlife.config.editing import Editor, uses_original_model
from factlife.editing import compute_z
from factlife.editing.editable import Deltas, EditableModel, apply_deltas, merge_deltas
from factlife.editing.editors import compute_deltas
from factlife.editing.evaluate import evaluate_probes
from factlife.editing.metrics import NO_METRICS, EditMetrics
from factlife.editing.requests import scheduled_requests, separate_same_subject, usable_probes
from factlife.world.tables import write_table


@dataclass
class EditResult:
    """The result of an editor.

    Attributes:
        deltas: changes of weights by parameter; for single edits ``{parameter}@{edit_id}``.
        probes: one row per phase, batch and probe.
        metrics: one row per phase, batch and item of ``EditMetrics``.
    """

    deltas: Deltas = field(default_factory=dict)
    probes: pd.DataFrame = field(default_factory=pd.DataFrame)
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
    """Edit requests by the editor's schedule, and evaluate before, after each batch and at the end.

    Args:
        target: the model; its weights have the same bits when this returns. For single edits, its target vectors must be
            ``independent``; without any, those of all requests are computed together.
        requests: validated; dropped ones are skipped.
        probes: as in ``requests``.
        editor: its settings.
        metrics: computed before editing, after each single edit, and whenever all edits are evaluated.
        batch_tokens: tokens per batch of probes; results do not depend on it.

    Returns:
        The changes, and results per probe with the columns ``schedule, phase, n_edits, edit_id, probe_id, metric, fact_id``,
        those of ``evaluate_probes``, and ``unchanged``: the most probable next token is that of the original model. ``phase``
        is ``pre``, ``post`` (after a batch, for its own edits) or ``end`` (for all edits so far). The metrics have the
        columns ``schedule, phase, n_edits`` and those of ``EditMetrics``; after single edits there is no perplexity.
    """
    schedule = editor.schedule
    requests = scheduled_requests(requests, schedule)
    edit_ids = set(requests["edit_id"])
    probes = usable_probes(probes, set() if schedule.kind == "single" else edit_ids, edit_ids)
    if schedule.kind != "single":
        probes = separate_same_subject(probes, set(requests["entity_id"]))
    pre = evaluate_probes(target.model, target.tokenizer, probes, batch_tokens=batch_tokens)
    original_token = pre["predicted_token"].set_axis(probes["probe_id"])
    result, probe_parts, metric_parts = EditResult(), [], []

    def add_probes(rows: pd.DataFrame, results: pd.DataFrame, phase: str, n_edits: int) -> None:
        table = pd.concat([rows[["edit_id", "probe_id", "metric", "fact_id"]], results], axis=1)
        table["unchanged"] = (table["predicted_token"] == rows["probe_id"].map(original_token)).astype("boolean")
        keys = {"schedule": schedule.kind, "phase": phase, "n_edits": n_edits, "d_key": target.parts.d_mlp}
        probe_parts.append(table.assign(**keys))

    def add_metrics(rows: pd.DataFrame, deltas: Deltas, phase: str, n_edits: int) -> None:
        table = metrics(target, rows, deltas, perplexity=phase != "post")
        metric_parts.append(table.assign(schedule=schedule.kind, phase=phase, n_edits=n_edits))

    add_probes(probes, pre, "pre", 0)
    add_metrics(requests, {}, "pre", 0)
    if schedule.kind == "single":
        vectors = target.target_vectors
        if vectors is None and uses_original_model(editor):
            vectors = compute_z.compute_target_vectors(target, requests, editor.site, editor.values, independent=True)
        for i, (request, request_probes) in enumerate(_single_edits(requests, probes)):
            request_target = replace(target, target_vectors=vectors.of_request(i)) if vectors else target
            deltas = compute_deltas(editor, request_target, request, {})
            with apply_deltas(target.model, deltas):
                results = evaluate_probes(target.model, target.tokenizer, request_probes, batch_tokens=batch_tokens)
                add_probes(request_probes, results, "post", 1)
                in_generation = i < metrics.settings.generation_requests
                add_metrics(request if in_generation else request.head(0), deltas, "post", 1)
            result.deltas |= {f"{name}@{request['edit_id'].iloc[0]}": delta for name, delta in deltas.items()}
    else:
        size = schedule.n_edits if schedule.kind == "batch" else schedule.edits_per_batch
        starts = range(0, len(requests), size)
        n_evaluations = schedule.n_evaluations
        evaluated_starts = {
            starts[(len(starts) * evaluation - 1) // n_evaluations] for evaluation in range(1, n_evaluations + 1)
        }
        memory: dict = {}
        for start in starts:
            batch = requests.iloc[start : start + size].reset_index(drop=True)
            all_edits = requests.head(start + size)
            n_edits = len(all_edits)
            with apply_deltas(target.model, result.deltas):
                result.deltas = merge_deltas(result.deltas, compute_deltas(editor, target, batch, memory))
            in_end = (probes["edit_id"] == "") | probes["edit_id"].isin(all_edits["edit_id"])
            in_batch = probes["edit_id"].isin(batch["edit_id"])
            rows = probes[(in_end if start in evaluated_starts else False) | in_batch].reset_index(drop=True)
            with apply_deltas(target.model, result.deltas):
                results = evaluate_probes(target.model, target.tokenizer, rows, batch_tokens=batch_tokens)
                if start in evaluated_starts:
                    add_metrics(all_edits, result.deltas, "end", n_edits)
            in_batch = rows["edit_id"].isin(batch["edit_id"])
            add_probes(rows[in_batch].reset_index(drop=True), results[in_batch].reset_index(drop=True), "post", n_edits)
            if start in evaluated_starts:
                add_probes(rows, results, "end", n_edits)
    result.probes = pd.concat(probe_parts, ignore_index=True)
    result.metrics = pd.concat(metric_parts, ignore_index=True)
    return result


def _single_edits(requests: pd.DataFrame, probes: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Each request with its probes: its own, the subject's other facts, and its share of all facts, each asked once."""
    recall = probes[probes["metric"] == "recall"]
    for i in range(len(requests)):
        request = requests.iloc[[i]].reset_index(drop=True)
        is_related = recall["fact_id"].isin(request["related_fact_ids"].iloc[0])
        in_share = pd.Series(range(len(recall)), index=recall.index) % len(requests) == i
        other_facts = recall[(is_related | in_share) & (recall["fact_id"] != request["fact_id"].iloc[0])]
        own_probes = probes[probes["edit_id"] == request["edit_id"].iloc[0]]
        request_probes = pd.concat([own_probes, other_facts], ignore_index=True)
        yield request, separate_same_subject(request_probes, {request["entity_id"].iloc[0]})


def save_result(result: EditResult, folder: str | Path, *, model: str, seed: str, editor: str) -> None:
    """Write ``deltas.safetensors``, ``edits.parquet`` (results per probe) and ``metrics.parquet``."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(
        {name: delta.cpu().contiguous() for name, delta in result.deltas.items()}, Path(folder) / "deltas.safetensors"
    )
    for table, name in ((result.probes, "edits"), (result.metrics, "metrics")):
        keyed = table.assign(model=model, seed=int(seed), editor=editor)
        keys = ["model", "seed", "editor"]
        write_table(
            keyed[[*keys, *(column for column in keyed.columns if column not in keys)]],
            Path(folder) / f"{name}.parquet",
        )
