"""Summarise and plot how well rankers find relevant documents and predict retrained models."""

from typing import TYPE_CHECKING

from factlife import figures, influence, jobs
from factlife.influence import figures as influence_figures

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = influence.summarise(
        influence.read_metrics(snakemake.input.query_metrics),
        influence.read_metrics(snakemake.input.retraining_metrics),
        resamples=snakemake.params.resamples,
    )
    table.to_csv(snakemake.output.table, index=False)
    table = influence.read_summary(snakemake.output.table)
    figures.write_svg(influence_figures.plot_retrieval(table), snakemake.output.retrieval)
    figures.write_svg(influence_figures.plot_recall_at_k(table), snakemake.output.recall)
    figures.write_svg(influence_figures.plot_composition(table, k=snakemake.params.k), snakemake.output.composition)
    figures.write_svg(influence_figures.plot_agreement(table), snakemake.output.agreement)
    if snakemake.output.retraining:
        figures.write_svg(influence_figures.plot_retraining(table), snakemake.output.retraining)
    if snakemake.output.sweeps:
        figures.write_svg(influence_figures.plot_sweeps(table, snakemake.params.sweeps), snakemake.output.sweeps)
