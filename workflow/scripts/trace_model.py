"""Locate a model's facts: restore one place of a corrupted run at a time."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models, world
from factlife.config.tracing import Tracing
from factlife.tracing.trace import trace_facts

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    table = trace_facts(
        *models.load_model(snakemake.input.model, job.device),
        world.load_world_of_table(snakemake.input.facts),
        config.parse(Tracing, snakemake.params.tracing),
        batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
    )
    table.insert(0, "model", snakemake.wildcards.model)
    table.insert(1, "seed", int(snakemake.wildcards.seed))
    table.to_parquet(snakemake.output.trace, index=False)
