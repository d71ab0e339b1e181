"""Train a model for one more step on each top document of every ranker."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, models, world
from factlife.config.influence import InfluenceSettings
from factlife.config.training import Training
from factlife.influence import tail_patch

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(InfluenceSettings, snakemake.params.influence)
    queries = influence.select_queries(world.load_world_of_table(snakemake.input.facts), settings)
    documents = influence.select_documents(corpus.read_documents(snakemake.input.documents), queries, settings)
    rankers = dict(zip(snakemake.params.rankers, snakemake.input.scores, strict=True))
    gains = tail_patch.run_tail_patch(
        *models.load_model(snakemake.input.model, job.device),
        influence.read_all_scores(rankers, queries, documents),
        queries,
        documents,
        settings.tail_patch,
        config.parse(Training, snakemake.params.training),
        batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
    )
    gains.to_parquet(snakemake.output.gains, index=False)
