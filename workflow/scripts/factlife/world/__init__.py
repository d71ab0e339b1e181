"""Worlds: entities, facts and probes. Ground truth lives here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

from factlife.config.worlds import CustomWorld
from factlife.config.worlds import World as Settings
from factlife.world import benchmark, countries, functions, people, table
from factlife.world.functions import symbols
from factlife.world.tables import World, WorldError, load_world, load_world_of_table

_BUILDERS: dict[str, Callable[..., World]] = {
    "people": people.build_world,
    "functions": functions.build_world,
    "table": table.build_world,
    "countries": countries.build_world,
    "benchmark": benchmark.build_world,
}


def build_world(settings: Settings) -> World:
    """Build the world that a section of the config describes.

    Raises:
        WorldError: the world cannot be built; the message says what to change.
    """
    if isinstance(settings, CustomWorld):
        return settings.build()
    return _BUILDERS[settings.kind](settings)


__all__ = ["World", "WorldError", "build_world", "load_world", "load_world_of_table", "symbols"]
