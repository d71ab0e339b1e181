"""Choose which facts are to become what, and what is asked about each."""

from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from factlife import config, jobs, world
from factlife.config.editing import Requests
from factlife.editing import requests
from factlife.world.tables import write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    truth = world.beside(snakemake.input.facts)
    wanted = requests.from_world(truth, config.parse(Requests, snakemake.params.requests))
    wanted = requests.validate(wanted, AutoTokenizer.from_pretrained(snakemake.input.model))
    write_table(wanted, snakemake.output.requests)
    write_table(requests.probes_of_world(wanted, truth), snakemake.output.probes)
