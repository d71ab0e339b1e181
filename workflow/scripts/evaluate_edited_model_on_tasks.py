"""Evaluate a model on multiple-choice tasks, with and without its edits."""

from typing import TYPE_CHECKING

from safetensors.torch import load_file

from factlife import config, jobs, models, world
from factlife.config.editing import EditEvaluation
from factlife.editing import tasks
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    jobs.check_manifest(snakemake.input.edits)
    facts = snakemake.input.get("facts")
    model, tokenizer = models.load_model(snakemake.input.model, job.device)
    answers = tasks.evaluate_tasks(
        model,
        tokenizer,
        load_file(f"{snakemake.input.edits}/deltas.safetensors"),
        read_table(f"{snakemake.input.edits}/metrics.parquet"),
        config.parse(EditEvaluation, snakemake.params.evaluation).tasks,
        world=world.load_world_of_table(facts) if facts else None,
    )
    write_table(answers, snakemake.output.answers)
