"""Train a model one step further on what rankers put first, one document at a time."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, models, world
from factlife.config.influence import Attribution
from factlife.config.models import Training
from factlife.influence import patching

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(Attribution, snakemake.params.attribution)
    queries = influence.select(world.beside(snakemake.input.facts), settings)
    documents = influence.pool(corpus.read(snakemake.input.documents), queries, settings)
    rankers = dict(zip(snakemake.params.rankers, snakemake.input.scores, strict=True))
    patched = patching.run(
        *models.load(snakemake.input.model, job.device),
        influence.read_all(rankers, queries, documents),
        queries,
        documents,
        settings.tail_patch,
        config.parse(Training, snakemake.params.training),
        batch_tokens=snakemake.params.batch_tokens,
    )
    patched.to_parquet(snakemake.output.patched, index=False)
