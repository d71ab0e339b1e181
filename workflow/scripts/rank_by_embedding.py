"""Rank training documents by sentence embeddings."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, models, world
from factlife.config.influence import InfluenceSettings, Ranker
from factlife.influence import embeddings

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(InfluenceSettings, snakemake.params.influence)
    queries = influence.select_queries(world.load_world_of_table(snakemake.input.facts), settings)
    documents = influence.select_documents(corpus.read_documents(snakemake.input.documents), queries, settings)
    scores = embeddings.rank_by_embedding(
        *models.load_encoder(snakemake.input.encoder, job.device),
        config.parse(Ranker, snakemake.params.ranker),
        queries,
        documents,
        batch_tokens=models.token_budget(snakemake.input.encoder, snakemake.params.batch_tokens),
    )
    influence.write_scores(scores, queries["query_id"].tolist(), documents["doc_id"].tolist(), snakemake.output.scores)
