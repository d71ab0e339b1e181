"""Fetch the questions of a task from the hub."""

from typing import TYPE_CHECKING

from factlife import config, jobs
from factlife.config.collapse import MultipleChoiceTask
from factlife.recall import harness

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    task = config.parse(MultipleChoiceTask, snakemake.params.task)
    harness.download_questions(task.dataset, task.subset, task.revision, snakemake.output.questions)
