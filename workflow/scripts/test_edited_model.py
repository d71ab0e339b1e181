"""Put a model with and without its edits through multiple-choice tasks."""

from typing import TYPE_CHECKING

from safetensors.torch import load_file

from factlife import config, jobs, models, world
from factlife.config.editing import Measured
from factlife.editing import tasks
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    jobs.check_manifest(snakemake.input.edits)
    model, tokenizer = models.load(snakemake.input.model, job.device)
    found = tasks.answer(
        model,
        tokenizer,
        load_file(f"{snakemake.input.edits}/deltas.safetensors"),
        read_table(f"{snakemake.input.edits}/measures.parquet"),
        config.parse(Measured, snakemake.params.measures).tasks,
        world=world.load_world_of_table(snakemake.input.facts),
    )
    write_table(found, snakemake.output.answers)
