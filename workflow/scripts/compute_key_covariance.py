"""Compute the key covariance of all blocks in one pass over a corpus."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models
from factlife.config.editing import KeyCovariance
from factlife.corpus import tokens
from factlife.editing import covariance
from factlife.world.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    settings = config.parse(KeyCovariance, snakemake.params.covariance)
    excluded = set() if settings.include_edited_subjects else set(read_table(snakemake.input.requests)["entity_id"])
    model, tokenizer = models.load_model(snakemake.input.model, job.device)
    matrices, convergence = covariance.compute_covariance(
        model,
        covariance.select_documents(tokens.read_tokens(snakemake.input.tokens), excluded),
        tokens_per_key_dim=settings.tokens_per_key_dim,
        pad_token_id=tokenizer.pad_token_id,
        layers=settings.layers,
    )
    digest = models.hash_weights(snakemake.input.model)
    covariance.save_covariance(matrices, snakemake.output.covariance, model=digest, convergence=convergence)
