"""Train a model on what the one before it wrote, let it write, and measure both."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, models, notify, world
from factlife.collapse import generation
from factlife.collapse.tests import questions
from factlife.config.collapse import Arm, MultipleChoice
from factlife.config.corpora import Corpus

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    known = world.load_world_of_table(snakemake.input.facts)
    tests = {name: config.parse(MultipleChoice, test) for name, test in snakemake.params.tests.items()}
    generation.run(
        config.parse(Arm, snakemake.params.arm),
        int(snakemake.wildcards.generation),
        int(snakemake.wildcards.seed),
        base=snakemake.input.base,
        earlier=snakemake.input.get("earlier", []),
        documents=corpus.read_documents(snakemake.input.documents),
        corpus=config.parse(Corpus, snakemake.params.corpus),
        world=known,
        output=snakemake.output.folder,
        resume=models.prepare_resume_folder(snakemake.params.resume, job.provenance),
        batch_tokens=snakemake.params.batch_tokens,
        tests={
            name: (test, questions(test, known, snakemake.input.get(f"test_{name}"))) for name, test in tests.items()
        },
        detector=snakemake.input.get("detector"),
        judge=snakemake.input.get("judge"),
        device=job.device,
    )
    job.write_manifest(snakemake.output.folder)
    title = "{arm}, seed {seed}: generation {generation}".format(**snakemake.wildcards)
    notify.send(title, generation.headline(snakemake.output.folder))
