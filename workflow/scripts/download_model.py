"""Download a pinned revision from the hub."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models
from factlife.config.training import Hub

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    models.download_model(config.parse(Hub, snakemake.params.source), snakemake.output.folder)
