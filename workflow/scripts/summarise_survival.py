"""Summarise what fine-tuning leaves of edits, with intervals over subjects, and draw it."""

from typing import TYPE_CHECKING

from factlife import editing, figures, jobs
from factlife.editing import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    followed = editing.read_survival(snakemake.input.survival)
    table = editing.summarise_survival(followed, resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(drawn.survival(table), snakemake.output.figure)
