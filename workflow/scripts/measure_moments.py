"""Measure the second moments of what down-projections read, of all blocks in one pass."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models
from factlife.config.editing import Moments
from factlife.corpus import tokens
from factlife.editing import moments
from factlife.world.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    settings = config.parse(Moments, snakemake.params.moments)
    left_out = set() if settings.edited else set(read_table(snakemake.input.requests)["entity_id"])
    model, tokenizer = models.load(snakemake.input.model, job.device)
    found, convergence = moments.measure(
        model,
        moments.documents(tokens.read_tokens(snakemake.input.tokens), left_out),
        multiple=settings.multiple,
        fill=tokenizer.pad_token_id,
        layers=settings.layers,
    )
    moments.save(found, snakemake.output.moments, model=models.digest(snakemake.input.model), convergence=convergence)
