"""Train sparse autoencoders or transcoders for every layer of a model, measure them and describe their features."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, models, world
from factlife.saes import dictionary as sae
from factlife.saes import features, quality, training

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(config.Sae, snakemake.params.sae)
    jobs.check_manifest(snakemake.input.model)
    model, tokenizer = models.load(snakemake.input.model, job.device)
    train, held_out = training.split(corpus.read(snakemake.input.documents), tokenizer, settings)
    coders = training.fit(model, tokenizer, train, settings)
    for layer, coder in enumerate(coders):
        coder.metadata = sae.about(model, snakemake.wildcards, settings, layer)
        sae.save(coder, f"{snakemake.output.folder}/layer-{layer}")
    if settings.site == "transcoder":
        sae.save_for_circuit_tracer(coders, f"{snakemake.output.folder}/circuit-tracer")
    job.write_manifest(snakemake.output.folder)
    told = world.beside(snakemake.input.facts)
    table = quality.evaluate(
        model, tokenizer, coders, settings, train=train, held_out=training.about(held_out, settings.evaluation_tokens),
        probes=quality.known_probes(told.facts, told.probes),
    )  # fmt: skip
    table.to_csv(snakemake.output.quality, index=False)
    described = features.describe(
        model, tokenizer, training.about(held_out + train, settings.described_tokens), settings.site, coders
    )
    described.to_parquet(snakemake.output.features, index=False)
