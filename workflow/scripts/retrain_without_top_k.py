"""Retrain a model without the top documents of a ranker."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, models, world
from factlife.config.influence import InfluenceSettings
from factlife.config.training import Source, Training
from factlife.influence import retraining

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(InfluenceSettings, snakemake.params.influence)
    queries = influence.select_queries(world.load_world_of_table(snakemake.input.facts), settings)
    documents = influence.select_documents(corpus.read_documents(snakemake.input.documents), queries, settings)[
        "doc_id"
    ].tolist()
    scores = influence.read_scores(snakemake.input.scores[0], queries["query_id"].tolist(), documents)
    losses = retraining.retrain(
        retraining.top_k_removal_runs(
            snakemake.wildcards.ranker, scores, documents, settings.retrained_models.top_k_removal
        ),
        config.parse(Source, snakemake.params.source),
        snakemake.input.start,
        snakemake.input.tokens,
        config.parse(Training, snakemake.params.training),
        queries,
        batch_tokens=models.token_budget(snakemake.input.start, snakemake.params.batch_tokens),
        device=job.device,
    )
    losses.to_parquet(snakemake.output.losses, index=False)
