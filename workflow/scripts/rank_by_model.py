"""Rank training documents by hidden states or gradients of the model."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, models, world
from factlife.config.influence import InfluenceSettings, Ranker
from factlife.influence import model_based

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    model_based.warn_if_trained_elsewhere(jobs.check_manifest(snakemake.input.model), snakemake.wildcards.corpus)
    settings, ground_truth = (
        config.parse(InfluenceSettings, snakemake.params.influence),
        world.load_world_of_table(snakemake.input.facts),
    )
    queries = influence.select_queries(ground_truth, settings)
    documents = influence.select_documents(corpus.read_documents(snakemake.input.documents), queries, settings)
    scores = model_based.rank_by_model(
        config.parse(Ranker, snakemake.params.ranker),
        snakemake.input.model,
        queries,
        documents,
        model_based.fact_values(ground_truth),
        batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
        device=job.device,
    )
    influence.write_scores(scores, queries["query_id"].tolist(), documents["doc_id"].tolist(), snakemake.output.scores)
