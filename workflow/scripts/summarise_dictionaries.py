"""Collect the quality of all sparse autoencoders and transcoders in one table, and plot it."""

from typing import TYPE_CHECKING

from factlife import figures, jobs
from factlife.saes.figures import plot_quality
from factlife.saes.tables import summarise_dictionaries

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = summarise_dictionaries(snakemake.input.quality)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(plot_quality(table), snakemake.output.figure)
