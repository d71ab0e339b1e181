"""Summarise and plot recall, with intervals over subjects."""

from typing import TYPE_CHECKING

from factlife import figures, jobs, recall
from factlife.recall import figures as recall_figures

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = recall.summarise_recall(recall.read_recall(snakemake.input.recall), resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(recall_figures.plot_probe_kinds(table), snakemake.output.kinds)
    figures.write_svg(recall_figures.plot_relations(table), snakemake.output.relations)
    figures.write_svg(recall_figures.plot_final_recall(table), snakemake.output.final)
    figures.write_svg(recall_figures.plot_models(table), snakemake.output.models)
    figures.write_svg(recall_figures.plot_confidence(table), snakemake.output.confidence)
    figures.write_svg(
        recall_figures.plot_training_loss(recall.read_training_curves(snakemake.input.curves)),
        snakemake.output.training,
    )
    figures.write_html(recall_figures.plot_explorer(table), snakemake.output.explorer)
