"""Summarise what every job cost."""

from typing import TYPE_CHECKING

from factlife import costs, figures, jobs

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = costs.collect(snakemake.params.logs)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(costs.figure(table), snakemake.output.figure)
