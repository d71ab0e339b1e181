"""Join what was measured of circuits, and draw it."""

from typing import TYPE_CHECKING

import pandas as pd

from factlife import figures, jobs
from factlife.circuits import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = pd.concat([pd.read_parquet(path) for path in snakemake.input.tables], ignore_index=True)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(drawn.faithfulness(table), snakemake.output.faithfulness)
    figures.write_svg(drawn.training(table), snakemake.output.training)
