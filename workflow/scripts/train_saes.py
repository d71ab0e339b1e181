"""Train sparse autoencoders or transcoders on every layer of a model, evaluate them and describe their features."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, models, world
from factlife.config.dictionaries import DictionarySettings
from factlife.saes import features, quality, training
from factlife.saes.dictionary import dictionary_metadata, save_dictionary, save_for_circuit_tracer

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(DictionarySettings, snakemake.params.dictionary)
    jobs.check_manifest(snakemake.input.model)
    model, tokenizer = models.load_model(snakemake.input.model, job.device)
    train, held_out = training.split_documents(corpus.read_documents(snakemake.input.documents), tokenizer, settings)
    dictionaries = training.train_dictionaries(model, tokenizer, train, settings)
    for layer, dictionary in enumerate(dictionaries):
        dictionary.metadata = dictionary_metadata(model, snakemake.wildcards, settings, layer)
        save_dictionary(dictionary, f"{snakemake.output.folder}/layer-{layer}")
    if settings.site == "transcoder":
        save_for_circuit_tracer(dictionaries, f"{snakemake.output.folder}/circuit-tracer")
    job.write_manifest(snakemake.output.folder)
    facts_world = world.load_world_of_table(snakemake.input.facts)
    metrics = quality.evaluate_dictionaries(
        model, tokenizer, dictionaries, settings, train=train,
        held_out=training.take_tokens(held_out, settings.evaluation_tokens),
        probes=quality.forward_probes(facts_world.facts, facts_world.probes),
        resamples=snakemake.params.resamples,
    )  # fmt: skip
    metrics.to_csv(snakemake.output.quality, index=False)
    descriptions = features.describe_features(
        model, tokenizer, training.take_tokens(held_out + train, settings.example_tokens), settings.site, dictionaries
    )
    descriptions.to_parquet(snakemake.output.features, index=False)
