"""Rank training documents by sentence embeddings."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, models, world
from factlife.config.influence import Attribution, Ranker
from factlife.influence import embeddings

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(Attribution, snakemake.params.attribution)
    queries = influence.select(world.beside(snakemake.input.facts), settings)
    documents = influence.pool(corpus.read(snakemake.input.documents), queries, settings)
    scores = embeddings.rank(
        *models.encoder(snakemake.input.encoder, job.device),
        config.parse(Ranker, snakemake.params.ranker),
        queries,
        documents,
        batch_tokens=snakemake.params.batch_tokens,
    )
    influence.write(scores, queries["query_id"].tolist(), documents["doc_id"].tolist(), snakemake.output.scores)
