"""Rank training documents by word overlap."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, world
from factlife.config.influence import InfluenceSettings, Ranker
from factlife.influence import lexical

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    settings = config.parse(InfluenceSettings, snakemake.params.influence)
    queries = influence.select_queries(world.load_world_of_table(snakemake.input.facts), settings)
    documents = influence.select_documents(corpus.read_documents(snakemake.input.documents), queries, settings)
    scores = lexical.rank_lexical(config.parse(Ranker, snakemake.params.ranker), queries, documents)
    influence.write_scores(scores, queries["query_id"].tolist(), documents["doc_id"].tolist(), snakemake.output.scores)
