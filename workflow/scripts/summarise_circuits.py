"""Join what was measured of circuits, and draw it."""

from typing import TYPE_CHECKING

import pandas as pd

from factlife import figures, jobs
from factlife.circuits import figures as drawn
from factlife.circuits.seeds import between_seeds

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    for paths, path, more in (
        (snakemake.input.tables, snakemake.output.table, [between_seeds(snakemake.input.circuits)]),
        (snakemake.input.hypotheses, snakemake.output.hypotheses, []),
        (snakemake.input.heads, snakemake.output.heads, []),
    ):
        pd.concat([*(pd.read_parquet(each) for each in paths), *more], ignore_index=True).to_csv(path, index=False)
    table = pd.read_csv(snakemake.output.table)
    figures.write_svg(drawn.faithfulness(table), snakemake.output.faithfulness)
    figures.write_svg(drawn.relations(table), snakemake.output.relations)
    figures.write_svg(drawn.training(table), snakemake.output.training)
    tested = pd.read_csv(snakemake.output.hypotheses)
    figures.write_svg(drawn.hypotheses(tested), snakemake.output.hypotheses_drawn)
    figures.write_svg(drawn.heads(pd.read_csv(snakemake.output.heads)), snakemake.output.heads_drawn)
