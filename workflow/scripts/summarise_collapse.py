"""Summarise and plot recall and text of all generations."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import collapse, figures, jobs, world
from factlife.collapse import figures as collapse_figures
from factlife.collapse.page import samples_page

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    arms = collapse.parse_arms(snakemake.params.arms)
    worlds = {name: world.load_world_of_table(facts) for name, facts in zip(arms, snakemake.input.facts, strict=True)}
    folders = collapse.generation_folders(snakemake.params.generations, snakemake.input.generations)
    table = collapse.summarise_generations(folders, worlds, arms, resamples=snakemake.params.resamples)
    tasks = collapse.summarise_tasks(folders, resamples=snakemake.params.resamples)
    stages = collapse.compare_with_controls(table, arms)
    table.to_csv(snakemake.output.table, index=False)
    stages.to_csv(snakemake.output.stages, index=False)
    tasks.to_csv(snakemake.output.tasks, index=False)
    figures.write_svg(collapse_figures.plot_recall(table), snakemake.output.recall)
    figures.write_svg(collapse_figures.plot_text(table), snakemake.output.text)
    sweeps = {model: collapse.synthetic_fraction_sweeps(model_arms) for model, model_arms in arms.items()}
    figures.write_svg(collapse_figures.plot_recall_drop(table, stages, sweeps), snakemake.output.recall_drop)
    figures.write_svg(collapse_figures.plot_formats(table, tasks), snakemake.output.formats)
    controls = {
        model: {name: arm.control for name, arm in model_arms.items() if arm.control in model_arms}
        for model, model_arms in arms.items()
    }
    figures.write_svg(collapse_figures.plot_stages(table, stages, controls), snakemake.output.stage_ends)
    figures.write_svg(collapse_figures.plot_onsets(stages), snakemake.output.onsets)
    Path(snakemake.output.samples).write_text(samples_page(folders))
