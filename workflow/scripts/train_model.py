"""Teach a model a corpus, with checkpoints at doubling exposures."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models
from factlife.config.models import Source, Training
from factlife.corpus import tokens

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings, seed = config.parse(Training, snakemake.params.training), int(snakemake.wildcards.seed)
    model, tokenizer = models.begin(
        config.parse(Source, snakemake.params.source), snakemake.input.start, seed=seed, device=job.device
    )
    parameters = model.num_parameters()
    curve = models.train(
        model,
        tokenizer,
        tokens.sequences(tokens.read(snakemake.input.tokens), max_length=settings.max_length, packing=settings.packing),
        settings,
        seed=seed,
        output=snakemake.output.folder,
        resume=models.fresh(snakemake.params.resume, job.provenance),
        before=models.stated(snakemake.input.start),
    )
    curve.to_csv(snakemake.output.curve, index=False)
    job.write_manifest(snakemake.output.folder, parameters=parameters)
