"""Hold the arms of all experiments against their controls."""

from typing import TYPE_CHECKING

from factlife import config, dynamics, jobs, recall
from factlife.config.dynamics import Dynamics

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = dynamics.compare(
        config.parse(Dynamics, snakemake.params.dynamics),
        snakemake.params.made,
        recall.read(snakemake.input.recall),
        dynamics.entities(snakemake.input.entities, snakemake.params.worlds),
    )
    table.to_csv(snakemake.output.table, index=False)
