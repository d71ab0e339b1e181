"""Evaluate rankings against the ground truth and against retrained models."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, recall, world
from factlife.config.influence import InfluenceSettings
from factlife.influence import retraining_metrics

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    settings, ground_truth = (
        config.parse(InfluenceSettings, snakemake.params.influence),
        world.load_world_of_table(snakemake.input.facts),
    )
    queries = influence.select_queries(ground_truth, settings)
    documents = influence.select_documents(corpus.read_documents(snakemake.input.documents), queries, settings)
    scores = influence.read_all_scores(
        dict(zip(snakemake.params.rankers, snakemake.input.scores, strict=True)), queries, documents
    )
    model_answers = recall.read_recall([snakemake.input.recall])
    query_metrics = influence.evaluate_rankings(
        scores,
        ground_truth,
        queries,
        documents,
        model_answers,
        snakemake.params.k,
        influence.read_metrics(snakemake.input.tail_patch) if snakemake.input.tail_patch else None,
    )
    retraining = retraining_metrics.evaluate_against_retrained(
        retraining_metrics.read_retrained(snakemake.input.retrained),
        scores,
        queries,
        documents,
        correct=influence.correct_queries(queries, model_answers),
        resamples=snakemake.params.resamples,
    )
    keys = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed), "world": snakemake.params.world}
    query_metrics.assign(**keys).to_parquet(snakemake.output.query_metrics, index=False)
    retraining.assign(**keys).to_parquet(snakemake.output.retraining_metrics, index=False)
