"""Train a model anew without the documents that a ranker puts first."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, world
from factlife.config.influence import Attribution
from factlife.config.models import Source, Training
from factlife.influence import retraining

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(Attribution, snakemake.params.attribution)
    queries = influence.select(world.beside(snakemake.input.facts), settings)
    documents = influence.pool(corpus.read(snakemake.input.documents), queries, settings)["doc_id"].tolist()
    scores = influence.read(snakemake.input.scores[0], queries["query_id"].tolist(), documents)
    trained = retraining.run(
        retraining.removals(snakemake.wildcards.ranker, scores, documents, settings.retraining.removal),
        config.parse(Source, snakemake.params.source),
        snakemake.input.start,
        snakemake.input.tokens,
        config.parse(Training, snakemake.params.training),
        queries,
        batch_tokens=snakemake.params.batch_tokens,
        device=job.device,
    )
    trained.to_parquet(snakemake.output.models, index=False)
