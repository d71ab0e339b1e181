"""Attribution graphs: which facts they explain, and how."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config

Share = Annotated[float, Field(gt=0, le=1)]


class Prompt(Section):
    """A prompt of one's own that gets a graph."""

    prompt: str = key(..., "Text.")
    answer: str = key(..., "What should follow after a space; a single token.")
    wrong: str | None = key(None, "What it is held against; empty for the most probable other token.")


class Graphs(Section):
    """Attribution graphs of facts, and interventions on their features."""

    models: dict[Name, Name] = key({}, "Models, of those that are run, and which of `saes` replaces their MLPs.")
    pages: Annotated[int, Field(ge=0)] | list[str] = key(
        3,
        "How many facts get a page, or their ids; facts of the panel that the model knows come first, relations in turn.",
    )
    prompts: dict[Name, Prompt] = key({}, "Prompts of one's own that get a page too, by name.")
    scored: Count = key(12, "Facts, those with pages included, whose graphs are scored and intervened on.")
    mass: Share = key(0.95, "Share of probability that the explained tokens have together.")
    logits: Count = key(10, "Explained tokens, at most.")
    max_features: Count = key(4000, "Features that get a node, at most; others count as error.")
    node_share: Share = key(0.8, "Share of influence that the shown nodes hold.")
    edge_share: Share = key(0.98, "Share of influence that the shown edges hold.")
    multiples: list[float] = key(
        [0.0, 2.0], "What features are multiplied by in interventions; 0 ablates.", min_length=1
    )
    others: Count = key(30, "Features that are not shown and are intervened on all the same, drawn at random.")
    resamples: Count = key(1000, "Bootstrap resamples of facts behind every interval.")
    seed: Annotated[int, Field(ge=0)] = key(0, "Of random features and directions.")


def problems(config: Config) -> Iterator[str]:
    """What in the section cannot be run."""
    for model, name in config.graphs.models.items():
        at = f"graphs.models.{model}"
        yield from missing(at, model, config.models, "models")
        yield from missing(at, name, config.saes, "saes")
        if name not in config.saes:
            continue
        if (site := config.saes[name].site) != "transcoder":
            yield f"{at} is `{name}`, whose site is `{site}`: graphs need transcoders; name one whose site is `transcoder`"
        if model not in config.saes[name].models:
            yield f"{at} is `{name}`, which is not trained on `{model}`: add it to saes.{name}.models"
    if isinstance(config.graphs.pages, list) and len(set(config.graphs.pages)) < len(config.graphs.pages):
        yield "graphs.pages has duplicates"
