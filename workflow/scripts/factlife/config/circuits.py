"""Circuits: how they are found and validated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config


class Circuits(Section):
    """Circuits of relations: which edges between heads and MLPs an answer goes through."""

    models: list[Name] = key([], "Models, of those that are run, whose circuits are found.")
    relations: list[str] = key(
        ["major"], "Relations, whose values must be single tokens unless `first_token` is set.", min_length=1
    )
    nodes: bool = key(
        False,
        "Circuits of whole heads and MLPs instead of edges; the only ones where attention and MLPs write through norms "
        "(Gemma 2, OLMo 2).",
    )  # fmt: skip
    methods: list[Literal["eap_ig", "eap", "exact", "denoising"]] = key(
        ["eap_ig"],
        "How edges are scored: gradients integrated from the corrupted to the clean input, the clean run's gradient, or "
        "one run for each edge: the clean run with that edge corrupted, or the corrupted run with that edge clean. The "
        "first is the one whose circuits are followed over training.",
        min_length=1,
    )  # fmt: skip
    steps: Annotated[int, Field(ge=5)] = key(
        100, "Points of the path from the corrupted to the clean input, at most; fewer where the integration leaves 5 % or less."
    )  # fmt: skip
    first_token: bool = key(
        False, "Explain the first token of answers that have several; otherwise such an answer is an error."
    )
    compare: dict[str, str] = key(
        {}, "Files of known circuits in the format of the MIB benchmark, by relation, against which those that are found are held."
    )  # fmt: skip
    budget: float = key(0.15, "Share of edges that a circuit may have.", gt=0, le=1)
    pairs: Annotated[int, Field(ge=2)] = key(48, "Prompts on which circuits are found, at most.")
    held_out: Annotated[int, Field(ge=2)] = key(
        32, "Prompts about other subjects on which they are validated, at most."
    )
    random: Count = key(200, "Random circuits, with as many edges of each kind, as the control.")
    minimality: Count = key(30, "Edges of a circuit that are taken out, one at a time, and edges that are put in.")
    subsets: Count = key(20, "Random halves of a circuit that are taken out of it and of the model, for completeness.")
    bootstrap: Annotated[int, Field(ge=2)] = key(100, "Circuits found on resampled subjects, for stability.")
    automatic: int = key(
        3, "Parts for which hypotheses are made, of the strongest and as many of the weakest, for each relation.", ge=0
    )
    smallest_effect: float = key(0.05, "Of interest in those hypotheses, as a share of the logit difference.", gt=0)
    resamples: Count = key(1000, "Bootstrap resamples of subjects behind every interval.")
    batch_tokens: Count = key(4096, "Tokens in a forward pass; no result depends on it but in the last digits.")
    seed: Annotated[int, Field(ge=0)] = key(0, "Of the division of subjects and of random circuits.")


class Hypothesis(Section):
    """What a part of a model is said to do, tested by knocking it out."""

    claim: str = key(..., "In words.")
    model: Name = key(..., "The model that has the part; one of `circuits.models`.")
    component: Annotated[str, Field(pattern=r"^(a\d+(\.h\d+)?|m\d+|[A-Za-z0-9-]+/layer-\d+/\d+)$")] = key(
        ...,
        "A head `a1.h3`, all heads of a layer `a1`, an MLP `m1`, or a feature `batchtopk-residual/layer-1/17` of one of "
        "`saes`.",
    )  # fmt: skip
    relation: str = key(..., "Whose held-out prompts are the test; one of `circuits.relations`.")
    prompts: Literal["forward", "paraphrase", "question"] = key("forward", "Kind of the prompts.")
    control: str = key(
        "same_answer",
        "What should not change: the same prompts with a subject who has the same answer in the corrupted run, or "
        "prompts about another of `circuits.relations`.",
    )  # fmt: skip
    direction: Literal["lowers", "raises"] = key(
        "lowers", "What knocking the part out does to the answer's logit difference."
    )
    smallest_effect: float = key(0.1, "Of interest, as a share of the logit difference.", gt=0)

    @property
    def feature(self) -> tuple[str, str, int] | None:
        """Name of the autoencoder, folder of its layer and number of the feature; None for heads and MLPs."""
        name, _, place = self.component.partition("/")
        return (name, place.split("/")[0], int(place.split("/")[1])) if place else None


def problems(config: Config) -> Iterable[str]:
    """What in the section cannot be run."""
    for name in config.circuits.models:
        yield from missing("circuits.models", name, config.models, "models")
    for field in ("models", "relations", "methods"):
        if len(set(values := getattr(config.circuits, field))) < len(values):
            yield f"circuits.{field} has duplicates"
    for relation in config.circuits.compare:
        if relation not in config.circuits.relations:
            yield (
                f"circuits.compare names relation `{relation}`, which is not in circuits.relations; "
                f"there are {', '.join(config.circuits.relations)}"
            )
    for name, hypothesis in config.hypotheses.items():
        where = f"hypotheses.{name}"
        yield from missing(f"{where}.model", hypothesis.model, config.models, "models")
        # A scenario that asks for other circuits leaves the hypotheses of the default ones as they are.
        if hypothesis.model not in config.circuits.models or hypothesis.model not in config.run.models:
            continue
        relations = config.circuits.relations
        wanted = {"relation": hypothesis.relation}
        if hypothesis.control != "same_answer":
            wanted["control"] = hypothesis.control
        for field, relation in wanted.items():
            if relation not in relations:
                yield f"{where}.{field} is `{relation}`, which is not in circuits.relations; there are {', '.join(relations)}"
        if hypothesis.feature:
            sae = config.saes.get(hypothesis.feature[0])
            if sae is None or hypothesis.model not in sae.models:
                having = [one for one, settings in config.saes.items() if hypothesis.model in settings.models]
                yield (
                    f"{where}.component names a feature of `{hypothesis.feature[0]}`, which saes does not train for "
                    f"{hypothesis.model}; there are {', '.join(having) or 'none'}"
                )
