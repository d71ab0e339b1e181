"""Worlds: which entities, facts and questions there are. Ground truth lives here and nowhere else."""

from __future__ import annotations

from factlife.config.worlds import World as Settings
from factlife.world import benchmark, countries, functions, people, table
from factlife.world.functions import symbols
from factlife.world.tables import World, WorldError, beside, load

_BUILDERS = {
    "people": people.build,
    "functions": functions.build,
    "table": table.build,
    "countries": countries.build,
    "benchmark": benchmark.build,
}


def build(settings: Settings) -> World:
    """Make the world that a section of the config describes.

    Raises:
        WorldError: it cannot be made; the text says what to change.
    """
    return _BUILDERS[settings.kind](settings)


__all__ = ["World", "WorldError", "beside", "build", "load", "symbols"]
