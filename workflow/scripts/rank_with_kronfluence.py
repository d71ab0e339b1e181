"""Rank training documents with Kronfluence."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, world
from factlife.config.influence import Attribution, Ranker
from factlife.influence import neural, with_kronfluence

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    neural.check_training(jobs.check_manifest(snakemake.input.model), snakemake.wildcards.corpus)
    ranker = config.parse(Ranker, snakemake.params.ranker)
    settings, known = config.parse(Attribution, snakemake.params.attribution), world.beside(snakemake.input.facts)
    queries = influence.select(known, settings)
    documents = influence.pool(corpus.read(snakemake.input.documents), queries, settings)
    scores = with_kronfluence.rank(
        neural.prepare(
            snakemake.input.model, queries, documents, neural.values(known), ranker.document_loss, device=job.device
        ),
        ranker,
        batch_tokens=snakemake.params.batch_tokens,
    )
    influence.write(scores, queries["query_id"].tolist(), documents["doc_id"].tolist(), snakemake.output.scores)
