"""Settings of circuit discovery and of hypotheses."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key, missing

if TYPE_CHECKING:
    from factlife.config import Config


class Circuits(Section):
    """Discovery and validation of each relation's circuit: the edges or nodes that its answers depend on."""

    renamed: ClassVar[dict[str, str]] = {
        "nodes": "level",
        "steps": "ig_steps",
        "compare": "known_circuits",
        "budget": "fraction",
        "pairs": "discovery_prompts",
        "held_out": "validation_prompts",
        "random": "random_circuits",
        "minimality": "minimality_edges",
        "subsets": "completeness_subsets",
        "bootstrap": "stability_resamples",
        "automatic": "exploratory_hypotheses",
    }
    moved: ClassVar[dict[str, str]] = {
        "models": "models.*.stages",
        "resamples": "run.resamples",
        "batch_tokens": "models.*.batch_tokens",
    }

    relations: list[str] | None = key(
        None,
        "Relations; null takes all of the model's world. Their values must be single tokens unless `first_token` is true.",
    )
    hypotheses: list[Name] = key([], "Hypotheses to test, of `hypotheses`.")
    level: Literal["edge", "node"] = key(
        "edge",
        "Whether circuits consist of edges between heads and MLPs, or of whole heads and MLPs. Models whose attention "
        "and MLPs write through norms (Gemma 2, OLMo 2) need `node`.",
    )  # fmt: skip
    methods: list[Literal["EAP-IG-inputs", "EAP", "exact", "denoising"]] = key(
        ["EAP-IG-inputs"],
        "How edges are scored: gradients integrated from the corrupted to the clean input (`EAP-IG-inputs`), the "
        "gradient of the clean run (`EAP`), or one run per edge: the clean run with the edge corrupted (`exact`), or the "
        "corrupted run with the edge clean (`denoising`). The first method is also applied to the checkpoints of training.",
        min_length=1,
    )  # fmt: skip
    ig_steps: Annotated[int, Field(ge=5)] = key(
        100, "Maximum number of integration steps; fewer are taken once the integration gap is at most 5 %."
    )  # fmt: skip
    first_token: bool = key(
        False, "Explain the first token of an answer that has several; otherwise such an answer is an error."
    )
    known_circuits: dict[str, str] = key(
        {}, "Files of known circuits in MIB's format, by relation, to compare with the discovered ones."
    )  # fmt: skip
    fraction: float = key(0.15, "Maximum fraction of edges (or nodes) in the circuit.", gt=0, le=1)
    discovery_prompts: Annotated[int, Field(ge=2)] = key(48, "Maximum number of prompts for discovery.")
    validation_prompts: Annotated[int, Field(ge=2)] = key(
        32, "Maximum number of prompts for validation; they are about other subjects."
    )
    random_circuits: Count = key(200, "Random circuits with as many edges of each kind, as a control.")
    minimality_edges: Count = key(
        30, "Edges removed from the circuit, one at a time, and random edges added to it, for `minimality`."
    )
    completeness_subsets: Count = key(
        20, "Random halves of the circuit that are removed from it and from the model, for `incompleteness`."
    )
    stability_resamples: Annotated[int, Field(ge=2)] = key(
        100, "Circuits discovered on resampled subjects, for `stability`."
    )
    exploratory_hypotheses: int = key(
        3, "Strongest components per relation that get an exploratory hypothesis, and as many of the weakest.", ge=0
    )
    smallest_effect: float = key(
        0.05, "Smallest effect of interest in exploratory hypotheses, as a fraction of the logit difference.", gt=0
    )
    seed: Annotated[int, Field(ge=0)] = key(0, "Random seed for the split of subjects and for random circuits.")


class CircuitDiscovery(Circuits):
    """A model's circuits, with the settings that all stages share."""

    resamples: Count
    batch_tokens: Count


class Hypothesis(Section):
    """A claim about a component of a model, tested by ablating it."""

    renamed: ClassVar[dict[str, str]] = {"prompts": "probe_kind"}
    moved: ClassVar[dict[str, str]] = {"model": "models.*.circuits.hypotheses"}

    claim: str = key(..., "The claim in words.")
    component: Annotated[str, Field(pattern=r"^(a\d+(\.h\d+)?|m\d+|[A-Za-z0-9-]+/layer-\d+/\d+)$")] = key(
        ...,
        "A head `a1.h3`, all heads of a layer `a1`, an MLP `m1`, or a feature `batchtopk-residual/layer-1/17` of a "
        "dictionary in `dictionaries`.",
    )  # fmt: skip
    relation: str = key(
        ..., "Relation whose validation prompts test the claim; one of the model's `circuits.relations`."
    )
    probe_kind: Literal["forward", "paraphrase", "question"] = key("forward", "Kind of the prompts.")
    control: str = key(
        "same_answer",
        "Prompts on which ablation should change nothing: `same_answer` (the corrupted run is about a subject with the "
        "same answer) or another of the model's `circuits.relations`.",
    )  # fmt: skip
    direction: Literal["lowers", "raises"] = key("lowers", "Effect of the ablation on the logit difference.")
    smallest_effect: float = key(0.1, "Smallest effect of interest, as a fraction of the logit difference.", gt=0)

    @property
    def feature(self) -> tuple[str, str, int] | None:
        """Name of the dictionary, folder of its layer and index of the feature; None for heads and MLPs."""
        name, _, feature = self.component.partition("/")
        return (name, feature.split("/")[0], int(feature.split("/")[1])) if feature else None


def problems(config: Config) -> Iterable[str]:
    """Problems of this section, one message each."""
    for name, circuits in config.running("circuits"):
        where = f"models.{name}.circuits"
        if circuits.relations is None:  # The model has no world, which is reported elsewhere.
            continue
        for relation in circuits.known_circuits:
            yield from missing(f"{where}.known_circuits", relation, circuits.relations, f"{where}.relations")
        for hypothesis in circuits.hypotheses:
            yield from missing(f"{where}.hypotheses", hypothesis, config.hypotheses, "hypotheses")
            if hypothesis in config.hypotheses:
                yield from _hypothesis_problems(config, name, hypothesis, circuits.relations)


def _hypothesis_problems(config: Config, model: Name, name: Name, relations: Collection[str]) -> Iterable[str]:
    hypothesis = config.hypotheses[name]
    yield from missing(
        f"hypotheses.{name}.relation", hypothesis.relation, relations, f"models.{model}.circuits.relations"
    )
    if hypothesis.control != "same_answer":
        yield from missing(
            f"hypotheses.{name}.control", hypothesis.control, relations, f"models.{model}.circuits.relations"
        )
    if hypothesis.feature:
        saes = config.models[model].saes
        dictionaries = saes.dictionaries if saes else []
        where = f"hypotheses.{name}.component"
        yield from missing(where, hypothesis.feature[0], dictionaries, f"models.{model}.saes.dictionaries")
