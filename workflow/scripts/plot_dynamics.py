"""Draw every experiment."""

from typing import TYPE_CHECKING

from factlife import dynamics, jobs
from factlife.dynamics import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    drawn.write(dynamics.read_table(snakemake.input.table), snakemake.params.comparisons, snakemake.output)
