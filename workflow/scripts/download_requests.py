"""Fetch a pinned dataset of requests from the hub."""

from typing import TYPE_CHECKING

from factlife import config, jobs
from factlife.config.editing import EditRequests
from factlife.editing import request_files

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    request_files.download_requests(config.parse(EditRequests, snakemake.params.requests), snakemake.output.rows)
