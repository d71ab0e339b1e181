"""Templates: sentences with one slot for a name and one for a value."""

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
        id: stable and safe in file names.
        text: the sentence.
        held_out: used only in probes, never in documents.
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
        """The sentence with both slots filled."""
        return self.text.format(name=name, value=value)

    def prompt(self, **slot: str) -> str:
        """The sentence up to the missing slot, without the space before it."""
        missing_slot = "{value}" if "name" in slot else "{name}"
        return self.text[: self.text.index(missing_slot)].format(**slot).rstrip()


def train_templates(templates: Iterable[Template], *, forward: bool = True) -> list[Template]:
    """The templates for documents in one direction."""
    return [template for template in templates if not template.held_out and template.forward is forward]


def held_out_templates(templates: Iterable[Template]) -> list[Template]:
    """The forward templates for probes only."""
    return [template for template in templates if template.held_out and template.forward]


def make_probe(
    fact: Any, kind: str, template: Template, prompt: str, candidates: list[str], **columns: Any
) -> dict[str, Any]:
    """A row of the probes table; the target is the fact's value unless ``columns`` overrides it.

    ``suffix`` ends the probe's id and distinguishes several probes with one template.
    """
    return {
        "probe_id": f"{fact.fact_id}.{kind}.{columns.pop('suffix', template.id)}",
        "fact_id": fact.fact_id,
        "kind": kind,
        "template": template.id,
        "held_out_template": template.held_out,
        "prompt": prompt,
        "target": fact.value,
        "candidates": candidates,
        "supporting_fact_ids": [fact.fact_id],
    } | columns


def sample_candidates(target: str, pool: Iterable[str], limit: int, rng: random.Random) -> list[str]:
    """The target and random other values of a pool, sorted."""
    other_values = sorted(set(pool) - {target})
    return sorted([target, *rng.sample(other_values, min(limit - 1, len(other_values)))])
