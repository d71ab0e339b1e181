"""Retrain a model on one shard of the document subsets. All rankers share the retrained models."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, models, world
from factlife.config.influence import InfluenceSettings
from factlife.config.training import Source, Training
from factlife.influence import retraining

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings, ground_truth = (
        config.parse(InfluenceSettings, snakemake.params.influence),
        world.load_world_of_table(snakemake.input.facts),
    )
    queries = influence.select_queries(ground_truth, settings)
    documents = influence.select_documents(corpus.read_documents(snakemake.input.documents), queries, settings)
    runs = retraining.subset_runs(documents["doc_id"].tolist(), settings.retrained_models)
    if settings.retrained_models.top_k_removal:
        runs += retraining.control_removal_runs(
            queries, documents, ground_truth, settings.retrained_models.top_k_removal
        )
    losses = retraining.retrain(
        retraining.shard_runs(runs, int(snakemake.wildcards.shard), settings.retrained_models.shards),
        config.parse(Source, snakemake.params.source),
        snakemake.input.start,
        snakemake.input.tokens,
        config.parse(Training, snakemake.params.training),
        queries,
        batch_tokens=models.token_budget(snakemake.input.start, snakemake.params.batch_tokens),
        device=job.device,
    )
    losses.to_parquet(snakemake.output.losses, index=False)
