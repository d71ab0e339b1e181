"""Train a model on what the one before it wrote, let it write, and measure both."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, models, notify, world
from factlife.collapse import generation
from factlife.config.collapse import Arm
from factlife.config.corpora import Corpus

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    generation.run(
        config.parse(Arm, snakemake.params.arm),
        int(snakemake.wildcards.generation),
        int(snakemake.wildcards.seed),
        base=snakemake.input.base,
        earlier=snakemake.input.get("earlier", []),
        documents=corpus.read(snakemake.input.documents),
        corpus=config.parse(Corpus, snakemake.params.corpus),
        world=world.beside(snakemake.input.facts),
        output=snakemake.output.folder,
        resume=models.fresh(snakemake.params.resume, job.provenance),
        batch_tokens=snakemake.params.batch_tokens,
        device=job.device,
    )
    job.write_manifest(snakemake.output.folder)
    title = "{arm}, seed {seed}: generation {generation}".format(**snakemake.wildcards)
    notify.send(title, generation.headline(snakemake.output.folder))
