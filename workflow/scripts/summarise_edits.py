"""Summarise what became of edits, with intervals over subjects, and draw it."""

from typing import TYPE_CHECKING

from factlife import editing, figures, jobs
from factlife.editing import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = editing.table(snakemake.input.edits, snakemake.input.tasks, resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(drawn.editors(table), snakemake.output.editors)
    figures.write_svg(drawn.judges(table), snakemake.output.judges)
    figures.write_svg(drawn.sequences(table), snakemake.output.sequences)
