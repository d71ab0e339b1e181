"""Train a model on a corpus, with checkpoints at doubling exposures."""

from typing import TYPE_CHECKING

from factlife import config, jobs, models
from factlife.config.training import Source, Training

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    task = models.TrainingTask(
        source=config.parse(Source, snakemake.params.source),
        start=snakemake.input.start,
        training=config.parse(Training, snakemake.params.training),
        tokens=snakemake.input.tokens,
        seed=int(snakemake.wildcards.seed),
        folder=snakemake.output.folder,
        curve=snakemake.output.curve,
        resume=models.prepare_resume_folder(snakemake.params.resume, job.provenance),
        device=job.device,
        threads=snakemake.params.torch_threads,
        # Not a parameter, because trackers do not affect the result.
        report_to=snakemake.config["run"]["report_to"],
        run_name=f"{snakemake.wildcards.model}-seed-{snakemake.wildcards.seed}",
    )
    models.run_training(task, processes=snakemake.params.processes, nodes=snakemake.params.nodes)
    job.write_manifest(snakemake.output.folder, parameters=models.count_parameters(snakemake.output.folder))
