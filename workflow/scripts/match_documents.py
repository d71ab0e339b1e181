"""Rank training documents by their words."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, world
from factlife.config.influence import Attribution, Ranker
from factlife.influence import text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    settings = config.parse(Attribution, snakemake.params.attribution)
    queries = influence.select(world.beside(snakemake.input.facts), settings)
    documents = influence.pool(corpus.read(snakemake.input.documents), queries, settings)
    scores = text.rank(config.parse(Ranker, snakemake.params.ranker), queries, documents)
    influence.write(scores, queries["query_id"].tolist(), documents["doc_id"].tolist(), snakemake.output.scores)
