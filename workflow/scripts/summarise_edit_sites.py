"""Summarise at which sites models can be edited, and which criteria predict them, and plot it."""

from typing import TYPE_CHECKING

from factlife import editing, figures, jobs
from factlife.editing import figures as edit_figures

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = editing.read_edit_sites(snakemake.input.edit_sites)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(edit_figures.plot_edit_sites(table), snakemake.output.figure)
