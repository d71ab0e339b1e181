"""Compare the arms of all experiments with their controls, and plot every experiment."""

from typing import TYPE_CHECKING

from factlife import config, dynamics, jobs, recall
from factlife.config.dynamics import Experiment
from factlife.dynamics import figures

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    experiments = config.parse(dict[str, Experiment], snakemake.params.experiments)
    table = dynamics.compare_experiments(
        experiments,
        recall.read_recall(snakemake.input.recall),
        dynamics.entities_by_model(snakemake.input.entities, snakemake.params.worlds),
        resamples=snakemake.params.resamples,
    )
    table.to_csv(snakemake.output.table, index=False)
    figures.write_figures(
        dynamics.read_dynamics(snakemake.output.table),
        {name: experiment.comparison for name, experiment in experiments.items()},
        snakemake.output.figures,
    )
