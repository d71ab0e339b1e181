"""Convert a pretrained model, with its adapter merged, to safetensors and a tokenizer."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models
from factlife.config.training import Source

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    model, tokenizer = models.load_source(
        config.parse(Source, snakemake.params.source), snakemake.input.get("download")
    )
    models.save_model(models.merge_adapter(model, snakemake.input.get("adapter")), tokenizer, snakemake.output.folder)
    job.write_manifest(snakemake.output.folder)
