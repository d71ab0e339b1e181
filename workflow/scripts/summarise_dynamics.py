"""Hold the arms of all experiments against their controls, and draw every experiment."""

from typing import TYPE_CHECKING

from factlife import config, dynamics, jobs, recall
from factlife.config.dynamics import Dynamics
from factlife.dynamics import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    settings = config.parse(Dynamics, snakemake.params.dynamics)
    table = dynamics.compare(
        settings,
        snakemake.params.made,
        recall.read_recall(snakemake.input.recall),
        dynamics.entities(snakemake.input.entities, snakemake.params.worlds),
    )
    table.to_csv(snakemake.output.table, index=False)
    drawn.write(
        dynamics.read_table(snakemake.output.table),
        {name: settings.experiments[name].comparison for name in snakemake.params.made},
        snakemake.output.figures,
    )
