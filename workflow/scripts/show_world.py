"""Show a world at a glance."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import corpus, jobs, world
from factlife.corpus.page import page

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    documents = snakemake.input.get("documents")
    shown = page(snakemake.wildcards.world, world.beside(snakemake.input.facts), documents and corpus.read(documents))
    Path(snakemake.output.page).write_text(shown)
