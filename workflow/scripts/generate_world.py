"""Generate the entities, facts and probes of a world."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import config, jobs, world
from factlife.config.worlds import World
from factlife.world import graph

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    generated = world.build_world(config.parse(World, snakemake.params.world))
    generated.save(Path(snakemake.output.entities).parent)
    graph.write_graphml(generated, snakemake.output.graphml)
    graph.write_json(generated, snakemake.output.json)
