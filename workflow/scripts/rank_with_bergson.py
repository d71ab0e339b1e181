"""Rank training documents with Bergson."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, models, world
from factlife.config.influence import InfluenceSettings, Ranker
from factlife.influence import bergson_backend, model_based

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    model_based.warn_if_trained_elsewhere(jobs.check_manifest(snakemake.input.model), snakemake.wildcards.corpus)
    ranker = config.parse(Ranker, snakemake.params.ranker)
    settings, ground_truth = (
        config.parse(InfluenceSettings, snakemake.params.influence),
        world.load_world_of_table(snakemake.input.facts),
    )
    queries = influence.select_queries(ground_truth, settings)
    documents = influence.select_documents(corpus.read_documents(snakemake.input.documents), queries, settings)
    scores = bergson_backend.rank_with_bergson(
        snakemake.input.model,
        model_based.load_ranking_inputs(
            snakemake.input.model,
            queries,
            documents,
            model_based.fact_values(ground_truth),
            ranker.document_loss,
            device=job.device,
        ),
        ranker,
        batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
    )
    influence.write_scores(scores, queries["query_id"].tolist(), documents["doc_id"].tolist(), snakemake.output.scores)
