"""Summarise recall with intervals over subjects, and draw it."""

from typing import TYPE_CHECKING

from factlife import figures, jobs, recall
from factlife.recall import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = recall.summarise_recall(recall.read_recall(snakemake.input.recall), resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(drawn.plot_probe_kinds(table), snakemake.output.kinds)
    figures.write_svg(drawn.plot_relations(table), snakemake.output.relations)
    figures.write_svg(drawn.plot_final_recall(table), snakemake.output.final)
    figures.write_svg(drawn.plot_models(table), snakemake.output.models)
    figures.write_svg(drawn.plot_confidence(table), snakemake.output.confidence)
    figures.write_svg(
        drawn.plot_training_loss(recall.read_training_curves(snakemake.input.curves)), snakemake.output.training
    )
    figures.write_html(drawn.plot_explorer(table), snakemake.output.explorer)
