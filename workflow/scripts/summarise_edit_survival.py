"""Summarise how edits survive fine-tuning, with intervals over subjects, and plot it."""

from typing import TYPE_CHECKING

from factlife import editing, figures, jobs
from factlife.editing import figures as edit_figures

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    survival = editing.read_survival(snakemake.input.survival)
    table = editing.summarise_survival(survival, resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(edit_figures.plot_survival(table), snakemake.output.figure)
