"""Fetch a pinned dataset of requests from the hub."""

from typing import TYPE_CHECKING

from factlife import config, jobs
from factlife.config.editing import Requests
from factlife.editing import public

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    public.download(config.parse(Requests, snakemake.params.requests), snakemake.output.rows)
