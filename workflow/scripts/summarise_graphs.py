"""Put what SAEs and attribution graphs are worth into tables, and draw them."""

from typing import TYPE_CHECKING

from factlife import figures, jobs
from factlife.circuits import sae_figures, tables

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    saes = tables.saes(snakemake.input.saes)
    saes.to_csv(snakemake.output.saes, index=False)
    figures.write_svg(sae_figures.quality(saes), snakemake.output.quality)
    interventions = tables.read(snakemake.input.interventions)
    graphs = tables.graphs(tables.read(snakemake.input.scores), interventions, resamples=snakemake.params.resamples)
    graphs.to_csv(snakemake.output.graphs, index=False)
    figures.write_svg(sae_figures.interventions(interventions, graphs), snakemake.output.interventions)
