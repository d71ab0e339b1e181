"""Choose which facts are to become what, and what is asked about each."""

from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from factlife import config, jobs, world
from factlife.config.editing import Requests
from factlife.editing import public
from factlife.world.tables import write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    wanted, asked = public.make(
        config.parse(Requests, snakemake.params.requests),
        AutoTokenizer.from_pretrained(snakemake.input.model),
        world=world.beside(snakemake.input.facts),
        path=snakemake.input.get("path"),
        snippets=snakemake.input.get("snippets"),
    )
    write_table(wanted, snakemake.output.requests)
    write_table(asked, snakemake.output.probes)
