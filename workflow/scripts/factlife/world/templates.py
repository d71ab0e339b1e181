"""Templates: sentences with a slot for a name and a slot for a value."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from factlife.world.tables import WorldError


@dataclass(frozen=True)
class Template:
    """A sentence with the slots ``{name}`` and ``{value}``.

    Attributes:
        id: safe in file names and stable.
        text: the sentence.
        held_out: never used in documents, only in probes.
    """

    id: str
    text: str
    held_out: bool = False

    def __post_init__(self) -> None:
        for slot in ("{name}", "{value}"):
            if self.text.count(slot) != 1:
                raise WorldError(f"template {self.id!r} ({self.text!r}) must have the slot {slot} exactly once")

    @property
    def forward(self) -> bool:
        """Whether the name comes before the value."""
        return self.text.index("{name}") < self.text.index("{value}")

    def sentence(self, name: str, value: str) -> str:
        """The whole sentence."""
        return self.text.format(name=name, value=value)

    def prompt(self, **slot: str) -> str:
        """The sentence up to the slot that is not given, without the space before it."""
        wanted = "{value}" if "name" in slot else "{name}"
        return self.text[: self.text.index(wanted)].format(**slot).rstrip()


def train_templates(templates: Iterable[Template], *, forward: bool = True) -> list[Template]:
    """The templates that documents use, in one direction."""
    return [template for template in templates if not template.held_out and template.forward is forward]


def held_out_templates(templates: Iterable[Template]) -> list[Template]:
    """The forward templates that only probes use."""
    return [template for template in templates if template.held_out and template.forward]


def make_probe(
    fact: Any, kind: str, template: Template, prompt: str, candidates: list[str], **other: Any
) -> dict[str, Any]:
    """A row of the probes: a question about a fact, whose value is the target unless ``other`` says otherwise.

    ``suffix`` ends the probe's id where one template asks a fact several times.
    """
    return {
        "probe_id": f"{fact.fact_id}.{kind}.{other.pop('suffix', template.id)}",
        "fact_id": fact.fact_id,
        "kind": kind,
        "template": template.id,
        "held_out_template": template.held_out,
        "prompt": prompt,
        "target": fact.value,
        "candidates": candidates,
        "supporting_fact_ids": [fact.fact_id],
    } | other


def sample_candidates(target: str, pool: Iterable[str], limit: int, rng: random.Random) -> list[str]:
    """The target among random others of a pool, sorted."""
    wrong = sorted(set(pool) - {target})
    return sorted([target, *rng.sample(wrong, min(limit - 1, len(wrong)))])
