"""Fetch the questions of a test from the hub."""

from typing import TYPE_CHECKING

from factlife import config, jobs
from factlife.config.collapse import MultipleChoice
from factlife.recall import harness

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    test = config.parse(MultipleChoice, snakemake.params.test)
    harness.download_questions(test.dataset, test.subset, test.revision, snakemake.output.questions)
