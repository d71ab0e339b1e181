"""Put what SAEs are worth into one table, and draw it."""

from typing import TYPE_CHECKING

from factlife import figures, jobs
from factlife.circuits import sae_figures, tables

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    saes = tables.saes(snakemake.input.saes)
    saes.to_csv(snakemake.output.saes, index=False)
    figures.write_svg(sae_figures.quality(saes), snakemake.output.quality)
