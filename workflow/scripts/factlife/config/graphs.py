"""Settings of attribution graphs: the facts to explain, pruning, and interventions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config

PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class CustomPrompt(Section):
    """A prompt of your own that gets a graph."""

    renamed: ClassVar[dict[str, str]] = {"wrong": "wrong_answer"}

    prompt: str = key(..., "Prompt text.")
    answer: str = key(..., "Answer that should follow the prompt after a space; must be a single token.")
    wrong_answer: str | None = key(
        None, "Answer to contrast with the correct one; null uses the most probable other token."
    )


class Graphs(Section):
    """Attribution graphs of facts, and interventions on their features."""

    renamed: ClassVar[dict[str, str]] = {
        "scored": "scored_facts",
        "mass": "desired_logit_prob",
        "logits": "max_n_logits",
        "max_features": "max_feature_nodes",
        "node_share": "node_threshold",
        "edge_share": "edge_threshold",
        "multiples": "steering_factors",
        "others": "random_features",
    }
    moved: ClassVar[dict[str, str]] = {"models": "models.*.graphs.transcoder", "resamples": "run.resamples"}

    transcoder: Name | None = key(
        None,
        "Transcoder that replaces the MLPs, of the model's `saes.dictionaries`; null takes the only transcoder among them.",
    )
    pages: Annotated[int, Field(ge=0)] | list[str] = key(
        3,
        "Number of facts that get a page, or the ids of these facts. A number takes facts from the panel, those that the "
        "model knows first, one relation after the other.",
    )
    prompts: dict[Name, CustomPrompt] = key({}, "Prompts of your own that also get a page, by name.")
    scored_facts: Count = key(12, "Number of facts with graph scores and interventions, including those with a page.")
    desired_logit_prob: PositiveFraction = key(0.95, "Total probability of the output tokens that get a logit node.")
    max_n_logits: Count = key(10, "Maximum number of logit nodes.")
    max_feature_nodes: Count = key(4000, "Maximum number of feature nodes; further features join the error nodes.")
    node_threshold: PositiveFraction = key(0.8, "Fraction of total influence that the nodes keep after pruning.")
    edge_threshold: PositiveFraction = key(0.98, "Fraction of total influence that the edges keep after pruning.")
    steering_factors: list[float] = key(
        [0.0, 2.0],
        "Factors by which interventions multiply a feature's activation; 0 ablates the feature.",
        min_length=1,
    )
    random_features: Count = key(30, "Number of random features outside the pruned graph to intervene on as well.")
    seed: Annotated[int, Field(ge=0)] = key(0, "Seed of the random features and directions.")


def problems(config: Config) -> Iterator[str]:
    """Errors that involve other sections of the config."""
    for model, graphs in config.running("graphs"):
        where = f"models.{model}.graphs"
        saes = config.models[model].saes
        dictionaries = saes.dictionaries if saes else []
        if graphs.transcoder is None:
            yield f"{where}.transcoder is missing: name one of models.{model}.saes.dictionaries"
            continue
        yield from missing(f"{where}.transcoder", graphs.transcoder, dictionaries, f"models.{model}.saes.dictionaries")
        if getattr(config.dictionaries.get(graphs.transcoder), "kind", "transcoder") != "transcoder":
            yield f"{where}.transcoder is `{graphs.transcoder}`, a sparse autoencoder; graphs need a transcoder"
