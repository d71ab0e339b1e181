"""Select the facts to edit, their new values, and the probes that evaluate each edit."""

from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from factlife import config, jobs, world
from factlife.config.editing import EditRequests
from factlife.editing import request_files
from factlife.editing.requests import recalled_probes
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    recall, facts = snakemake.input.get("recall"), snakemake.input.get("facts")
    requests, probes = request_files.select_requests(
        config.parse(EditRequests, snakemake.params.requests),
        AutoTokenizer.from_pretrained(snakemake.input.model),
        world=world.load_world_of_table(facts) if facts else None,
        path=snakemake.input.get("path"),
        recalled=recalled_probes(read_table(recall)) if recall else None,
        attribute_snippets=snakemake.input.get("attribute_snippets"),
    )
    write_table(requests, snakemake.output.requests)
    write_table(probes, snakemake.output.probes)
