"""Write one circuit as a file in MIB's format."""

from typing import TYPE_CHECKING

from factlife import jobs
from factlife.circuits.seeds import export_circuit

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    export_circuit(snakemake.input.circuits, snakemake.output.circuit, **snakemake.wildcards)
