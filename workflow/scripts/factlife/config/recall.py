"""Recall, and the section that selects what to run."""

from __future__ import annotations

from typing import Literal

from factlife.config.base import Count, Section, key


class Recall(Section):
    """The probe engine."""

    batch_tokens: Count = key(8192, "Tokens per batch, including padding; scores do not depend on it.")
    resamples: Count = key(1000, "Bootstrap resamples of subjects for every interval.")


class Run(Section):
    """What `snakemake all` produces."""

    threads: Count = key(
        1, "Threads of jobs that run models. It is fixed here because the last digits of sums depend on it."
    )
    models: list[str] = key(["people-pieces"], "Models to run.", min_length=1)
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = key(
        [],
        "Trackers that training also reports to, offline in `runs/`. A tracker that fails does not stop training.",
    )
    experiments: list[str] = key([], "Experiments of `dynamics` to run.")
