"""Summarise how well rankers find what is relevant, with intervals over subjects."""

from typing import TYPE_CHECKING

from factlife import influence, jobs

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = influence.summarise(influence.read_judged(snakemake.input.judged), resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
