"""Train a model on text of the previous generation, generate texts and evaluate both."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, models, notify, world
from factlife.collapse import generation
from factlife.collapse.tasks import task_questions
from factlife.config.collapse import CollapseArm, MultipleChoiceTask
from factlife.config.corpora import Corpus

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    arm_world = world.load_world_of_table(snakemake.input.facts)
    tasks = {name: config.parse(MultipleChoiceTask, task) for name, task in snakemake.params.tasks.items()}
    generation.train_generation(
        config.parse(CollapseArm, snakemake.params.arm),
        int(snakemake.wildcards.generation),
        int(snakemake.wildcards.seed),
        base=snakemake.input.base,
        previous=snakemake.input.get("previous", []),
        documents=corpus.read_documents(snakemake.input.documents),
        corpus=config.parse(Corpus, snakemake.params.corpus),
        world=arm_world,
        output=snakemake.output.folder,
        resume=models.prepare_resume_folder(snakemake.params.resume, job.provenance),
        batch_tokens=models.token_budget(snakemake.input.base, snakemake.params.batch_tokens),
        tasks={
            name: (task, task_questions(task, arm_world, snakemake.input.get(f"task_{name}")))
            for name, task in tasks.items()
        },
        gibberish_detector=snakemake.input.get("gibberish_detector"),
        perplexity_model=snakemake.input.get("perplexity_model"),
        device=job.device,
    )
    job.write_manifest(snakemake.output.folder)
    title = "{model}, {arm}, seed {seed}: generation {generation}".format(**snakemake.wildcards)
    notify.send(title, generation.summary_line(snakemake.output.folder))
