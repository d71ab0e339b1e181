"""Compare rankings with what documents state, and with what models do that never read them."""

from typing import TYPE_CHECKING

from factlife import config, corpus, influence, jobs, recall, world
from factlife.config.influence import Attribution
from factlife.influence import counterfactual

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    settings, known = config.parse(Attribution, snakemake.params.attribution), world.beside(snakemake.input.facts)
    queries = influence.select(known, settings)
    documents = influence.pool(corpus.read(snakemake.input.documents), queries, settings)
    scores = influence.read_all(
        dict(zip(snakemake.params.rankers, snakemake.input.scores, strict=True)), queries, documents
    )
    answers = recall.read([snakemake.input.recall])
    judged = influence.judge_all(
        scores,
        known,
        queries,
        documents,
        answers,
        snakemake.params.k,
        influence.read_judged(snakemake.input.patched) if snakemake.input.patched else None,
    )
    retrained = counterfactual.judge(
        counterfactual.read(snakemake.input.bank),
        scores,
        queries,
        documents,
        answered=influence.answered(queries, answers),
        resamples=snakemake.params.resamples,
    )
    named = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed), "world": snakemake.params.world}
    judged.assign(**named).to_parquet(snakemake.output.judged, index=False)
    retrained.assign(**named).to_parquet(snakemake.output.retrained, index=False)
