"""Join what was measured of circuits, and draw it."""

from typing import TYPE_CHECKING

import pandas as pd

from factlife import figures, jobs
from factlife.circuits import figures as circuit_figures
from factlife.circuits.seeds import compare_seeds

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    for paths, path, more in (
        (snakemake.input.tables, snakemake.output.table, [compare_seeds(snakemake.input.circuits)]),
        (snakemake.input.hypotheses, snakemake.output.hypotheses, []),
        (snakemake.input.heads, snakemake.output.heads, []),
    ):
        pd.concat([*(pd.read_parquet(each) for each in paths), *more], ignore_index=True).to_csv(path, index=False)
    table = pd.read_csv(snakemake.output.table)
    figures.write_svg(circuit_figures.plot_faithfulness_curves(table), snakemake.output.faithfulness)
    figures.write_svg(circuit_figures.plot_relation_transfer(table), snakemake.output.relations)
    figures.write_svg(circuit_figures.plot_training_curves(table), snakemake.output.training)
    tested = pd.read_csv(snakemake.output.hypotheses)
    figures.write_svg(circuit_figures.plot_hypothesis_effects(tested), snakemake.output.hypotheses_figure)
    figures.write_svg(
        circuit_figures.plot_head_attributions(pd.read_csv(snakemake.output.heads)), snakemake.output.heads_figure
    )
