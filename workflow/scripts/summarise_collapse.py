"""Summarise and draw what each generation still knows and how it writes."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import collapse, config, figures, jobs, world
from factlife.collapse import figures as drawn
from factlife.collapse.page import page
from factlife.config.collapse import Arm

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    arms = {name: config.parse(Arm, arm) for name, arm in snakemake.params.arms.items()}
    worlds = {name: world.load_world_of_table(facts) for name, facts in zip(arms, snakemake.input.facts, strict=True)}
    folders = collapse.folders(snakemake.params.generations, snakemake.input.generations)
    table = collapse.summarise(folders, worlds, arms, resamples=snakemake.params.resamples)
    tests = collapse.summarise_tests(folders, resamples=snakemake.params.resamples)
    stages = collapse.analyse(table, arms)
    table.to_csv(snakemake.output.table, index=False)
    stages.to_csv(snakemake.output.stages, index=False)
    tests.to_csv(snakemake.output.tests, index=False)
    figures.write_svg(drawn.recall(table), snakemake.output.recall)
    figures.write_svg(drawn.text(table), snakemake.output.text)
    controls = {name: arm.control for name, arm in arms.items() if arm.control in arms}
    figures.write_svg(drawn.lost(table, stages, collapse.families(arms)), snakemake.output.lost)
    figures.write_svg(drawn.formats(table, tests), snakemake.output.formats)
    figures.write_svg(drawn.stages(table, stages, controls), snakemake.output.boundaries)
    figures.write_svg(drawn.departures(stages, list(arms)), snakemake.output.departures)
    Path(snakemake.output.samples).write_text(page(folders))
