"""Compare rankings with what documents state."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, recall, world
from factlife.config.influence import Attribution

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    judged = influence.judge_all(
        dict(zip(snakemake.params.rankers, snakemake.input.scores, strict=True)),
        world.beside(snakemake.input.facts),
        corpus.read(snakemake.input.documents),
        recall.read([snakemake.input.recall]),
        config.parse(Attribution, snakemake.params.attribution),
        snakemake.params.k,
    )
    named = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed), "world": snakemake.params.world}
    judged.assign(**named).to_parquet(snakemake.output.judged, index=False)
