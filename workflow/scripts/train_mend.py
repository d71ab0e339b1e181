"""Train MEND's hypernetwork on requests about subjects that no evaluated request is about."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models, world
from factlife.config.editing import EditRequests, HypernetworkTraining
from factlife.editing import editable, mend
from factlife.editing.requests import recalled_probes
from factlife.world.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    settings = config.parse(HypernetworkTraining, snakemake.params.hypernetwork)
    target = editable.EditableModel(*models.load_model(snakemake.input.model, job.device))
    recall, facts = snakemake.input.get("recall"), snakemake.input.get("facts")
    train_edits = mend.select_train_edits(
        target,
        config.parse(EditRequests, snakemake.params.requests),
        read_table(snakemake.input.requests),
        n_edits=settings.train_edits,
        world=world.load_world_of_table(facts) if facts else None,
        path=snakemake.input.get("path"),
        recalled=recalled_probes(read_table(recall)) if recall else None,
    )
    network, log = mend.train_hypernetwork(target, train_edits, settings)
    digest = models.hash_weights(snakemake.input.model)
    mend.save_hypernetwork(network, snakemake.output.network, model=digest, log=log)
