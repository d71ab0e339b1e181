"""Summarise the costs of every job."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import costs, figures, jobs

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = costs.collect_costs(Path(snakemake.log[0]).parents[1])
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(costs.plot_costs(table), snakemake.output.figure)
