"""Summarise how well rankers find what is relevant and foretell retrained models, and draw it."""

from typing import TYPE_CHECKING

from factlife import figures, influence, jobs
from factlife.influence import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = influence.summarise(
        influence.read_judged(snakemake.input.judged),
        influence.read_judged(snakemake.input.retrained),
        resamples=snakemake.params.resamples,
    )
    table.to_csv(snakemake.output.table, index=False)
    table = influence.read_summary(snakemake.output.table)
    figures.write_svg(drawn.retrieval(table), snakemake.output.retrieval)
    figures.write_svg(drawn.recall_at_k(table), snakemake.output.recall)
    figures.write_svg(drawn.composition(table, k=snakemake.params.k), snakemake.output.composition)
    figures.write_svg(drawn.agreement(table), snakemake.output.agreement)
    if snakemake.output.retraining:
        figures.write_svg(drawn.retraining(table), snakemake.output.retraining)
    if snakemake.output.sweeps:
        figures.write_svg(drawn.sweeps(table, snakemake.params.sweeps), snakemake.output.sweeps)
