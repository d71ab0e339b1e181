"""What a run makes, and settings that all its stages share."""

from __future__ import annotations

from typing import ClassVar, Literal

from factlife.config.base import Count, Name, Section, key


class Run(Section):
    """What `snakemake all` makes, and settings that all stages share."""

    moved: ClassVar[dict[str, str]] = {"batch_tokens": "models.*.batch_tokens"}

    models: list[Name] = key(["people-pieces"], "Models to run through their stages.", min_length=1)
    experiments: list[Name] = key([], "Experiments to run, of `experiments`.")
    resamples: Count = key(1000, "Bootstrap resamples for every interval.")
    threads: Count = key(
        1,
        "Threads of jobs that run models. It is fixed here because the last digits of sums depend on it.",
    )
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = key(
        [],
        "Trackers that training also reports to, offline in `runs/`. A tracker that fails does not stop training.",
    )
