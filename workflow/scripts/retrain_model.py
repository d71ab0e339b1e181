"""Train a model anew without some documents: a share of the bank by which all rankers are judged."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, world
from factlife.config.influence import Attribution
from factlife.config.models import Source, Training
from factlife.influence import retraining

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings, known = config.parse(Attribution, snakemake.params.attribution), world.beside(snakemake.input.facts)
    queries = influence.select(known, settings)
    documents = influence.pool(corpus.read(snakemake.input.documents), queries, settings)
    arms = retraining.bank(documents["doc_id"].tolist(), settings.retraining)
    if settings.retraining.removal:
        arms += retraining.controls(queries, documents, known, settings.retraining.removal)
    trained = retraining.run(
        retraining.shard(arms, int(snakemake.wildcards.shard), settings.retraining.shards),
        config.parse(Source, snakemake.params.source),
        snakemake.input.start,
        snakemake.input.tokens,
        config.parse(Training, snakemake.params.training),
        queries,
        batch_tokens=snakemake.params.batch_tokens,
        device=job.device,
    )
    trained.to_parquet(snakemake.output.models, index=False)
