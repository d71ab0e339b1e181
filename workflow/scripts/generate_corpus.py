"""Render documents, each with the ids of the facts that it states."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, world
from factlife.config.corpora import Corpus

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    documents = corpus.render_documents(
        config.parse(Corpus, snakemake.params.corpus),
        world.load_world_of_table(snakemake.input.get("facts")),
        snakemake.input.get("path"),
    )
    corpus.write_documents(documents, snakemake.output.documents)
