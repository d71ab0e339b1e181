"""Summarise what each generation still knows and how it writes."""

from typing import TYPE_CHECKING

from factlife import collapse, jobs, world

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = collapse.summarise(
        collapse.folders(snakemake.params.generations, snakemake.input.generations),
        {arm: world.beside(facts) for arm, facts in zip(snakemake.params.arms, snakemake.input.facts, strict=True)},
        resamples=snakemake.params.resamples,
    )
    table.to_csv(snakemake.output.table, index=False)
