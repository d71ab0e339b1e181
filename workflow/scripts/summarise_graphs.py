"""Summarise the scores of attribution graphs and their predictions of interventions, and plot the predictions."""

from typing import TYPE_CHECKING

from factlife import figures, jobs
from factlife.graphs.figures import plot_interventions
from factlife.graphs.tables import read_tables, summarise_graphs

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    interventions = read_tables(snakemake.input.interventions)
    table = summarise_graphs(read_tables(snakemake.input.scores), interventions, resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(plot_interventions(interventions, table), snakemake.output.figure)
