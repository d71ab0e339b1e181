"""Join what all stages say of every fact."""

from typing import TYPE_CHECKING

from factlife import jobs, ledger

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = ledger.build(snakemake.params.lives)
    ledger.write(table, snakemake.output.ledger)
    table.to_csv(snakemake.output.csv, index=False)
    ledger.write_page(table, snakemake.params.lives, snakemake.output.page)
