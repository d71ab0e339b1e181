"""Summarise where models can be edited, and who predicts it, and draw it."""

from typing import TYPE_CHECKING

from factlife import editing, figures, jobs
from factlife.editing import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = editing.read_places(snakemake.input.places)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(drawn.places(table), snakemake.output.figure)
