"""Summarise recall with intervals over subjects, and draw it."""

from typing import TYPE_CHECKING

from factlife import figures, jobs, recall
from factlife.recall import figures as drawn

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    table = recall.summarise(recall.read(snakemake.input.recall), resamples=snakemake.params.resamples)
    table.to_csv(snakemake.output.table, index=False)
    figures.write_svg(drawn.by_kind(table), snakemake.output.kinds)
    figures.write_svg(drawn.by_relation(table), snakemake.output.relations)
    figures.write_svg(drawn.final(table), snakemake.output.final)
    figures.write_svg(drawn.by_model(table), snakemake.output.models)
    figures.write_svg(drawn.confidence(table), snakemake.output.confidence)
    figures.write_svg(drawn.training(recall.read_curves(snakemake.input.curves)), snakemake.output.training)
    figures.write_html(drawn.explorer(table), snakemake.output.explorer)
