"""Summarise and draw where facts are."""

from typing import TYPE_CHECKING

from factlife import figures, jobs, tracing
from factlife.tracing import figures as tracing_figures

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = tracing.summarise_traces(tracing.read_traces(snakemake.input.traces), resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(tracing_figures.plot_effect_heat_map(table), snakemake.output.heat_map)
    figures.write_svg(tracing_figures.plot_effect_curves(table), snakemake.output.curves)
