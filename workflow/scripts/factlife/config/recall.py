"""Recall: how models are asked."""

from __future__ import annotations

from typing import Literal

from factlife.config.base import Count, Section, key


class Recall(Section):
    """The probe engine."""

    batch_tokens: Count = key(8192, "Tokens in a batch, padding included; no score depends on it.")
    resamples: Count = key(1000, "Bootstrap resamples of subjects behind every interval.")


class Run(Section):
    """What `snakemake all` makes."""

    threads: Count = key(
        1, "Threads of jobs that run models; sums depend on it in the last digits, so it is not left to the machine."
    )
    models: list[str] = key(["people-pieces"], "Models that are asked about their worlds.", min_length=1)
    report_to: list[Literal["tensorboard", "trackio", "wandb"]] = key(
        [],
        "Trackers that training also reports to, in `runs/` and never over a network; one that fails is left out and "
        "stops nothing.",
    )
    experiments: list[str] = key([], "Experiments of `dynamics` that are made.")
