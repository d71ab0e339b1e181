"""Summarise the evaluation of edits, with intervals over subjects, and plot it."""

from typing import TYPE_CHECKING

from factlife import editing, figures, jobs
from factlife.editing import figures as edit_figures

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = editing.build_edits_table(
        snakemake.input.edits, snakemake.input.tasks, resamples=snakemake.params.resamples
    )
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(edit_figures.plot_editors(table), snakemake.output.editors)
    figures.write_svg(edit_figures.plot_criteria(table), snakemake.output.criteria)
    figures.write_svg(edit_figures.plot_sequences(table), snakemake.output.sequences)
