"""Link a pretrained model that is not trained further."""

from typing import TYPE_CHECKING

from factlife import jobs, models

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    models.link_files(snakemake.input.source, snakemake.output.folder)
    job.write_manifest(snakemake.output.folder)
