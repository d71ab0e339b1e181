"""Show part of a world's graph, example documents and probes on one page."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import corpus, jobs, world
from factlife.corpus.page import world_page

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    documents = snakemake.input.get("documents")
    page = world_page(
        snakemake.wildcards.world,
        world.load_world_of_table(snakemake.input.facts),
        documents and corpus.read_documents(documents),
    )
    Path(snakemake.output.page).write_text(page)
