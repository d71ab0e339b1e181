"""Summarise recall with intervals over subjects."""

from typing import TYPE_CHECKING

from factlife import jobs, recall

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = recall.summarise(recall.read(snakemake.input.recall), resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
