"""Choose which facts are to become what, and what is asked about each."""

from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from factlife import config, jobs, world
from factlife.config.editing import Requests
from factlife.editing import public, requests
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    recall = snakemake.input.get("recall")
    wanted, asked = public.make(
        config.parse(Requests, snakemake.params.requests),
        AutoTokenizer.from_pretrained(snakemake.input.model),
        world=world.load_world_of_table(snakemake.input.facts),
        path=snakemake.input.get("path"),
        known=requests.told(read_table(recall)) if recall else None,
        snippets=snakemake.input.get("snippets"),
    )
    write_table(wanted, snakemake.output.requests)
    write_table(asked, snakemake.output.probes)
