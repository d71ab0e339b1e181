"""Put what SAEs and attribution graphs are worth into tables, and draw them."""

from typing import TYPE_CHECKING

from factlife import figures, jobs
from factlife.graphs import figures as graph_figures
from factlife.graphs import tables as graph_tables
from factlife.saes import figures as sae_figures
from factlife.saes import tables as sae_tables

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    saes = sae_tables.saes(snakemake.input.saes)
    saes.to_csv(snakemake.output.saes, index=False)
    figures.write_svg(sae_figures.quality(saes), snakemake.output.quality)
    interventions = graph_tables.read(snakemake.input.interventions)
    graphs = graph_tables.graphs(
        graph_tables.read(snakemake.input.scores), interventions, resamples=snakemake.params.resamples
    )
    graphs.to_csv(snakemake.output.graphs, index=False)
    figures.write_svg(graph_figures.interventions(interventions, graphs), snakemake.output.interventions)
