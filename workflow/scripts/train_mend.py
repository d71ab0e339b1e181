"""Train MEND's network on requests about subjects that no evaluated request is about."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models, world
from factlife.config.editing import Hypernetwork, Requests
from factlife.editing import editable, mend, requests
from factlife.world.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    settings = config.parse(Hypernetwork, snakemake.params.hypernetwork)
    target = editable.Editable(*models.load(snakemake.input.model, job.device))
    recall = snakemake.input.get("recall")
    learned = mend.lessons(
        target,
        config.parse(Requests, snakemake.params.requests),
        read_table(snakemake.input.requests),
        number=settings.lessons,
        world=world.load_world_of_table(snakemake.input.facts),
        path=snakemake.input.get("path"),
        known=requests.told(read_table(recall)) if recall else None,
    )
    network, log = mend.train(target, learned, settings)
    mend.save(network, snakemake.output.network, model=models.digest(snakemake.input.model), log=log)
