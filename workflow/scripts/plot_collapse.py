"""Draw what is lost from generation to generation, and show texts side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import collapse, figures, jobs
from factlife.collapse import figures as drawn
from factlife.collapse.page import page

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = collapse.read_table(snakemake.input.table)
    figures.write_svg(drawn.recall(table), snakemake.output.recall)
    figures.write_svg(drawn.text(table), snakemake.output.text)
    shown = page(collapse.folders(snakemake.params.generations, snakemake.input.generations))
    Path(snakemake.output.samples).write_text(shown)
