"""Score all probes of a model's world at all checkpoints."""

from typing import TYPE_CHECKING

from factlife import jobs, models, world
from factlife.recall.evaluate import evaluate_checkpoints

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    table = evaluate_checkpoints(
        models.list_checkpoints(snakemake.input.model),
        world.load_world_of_table(snakemake.input.facts),
        models.read_exposures(snakemake.input.model),
        model=snakemake.wildcards.model,
        seed=int(snakemake.wildcards.seed),
        batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
        device=job.device,
    )
    table.to_parquet(snakemake.output.recall, index=False)
