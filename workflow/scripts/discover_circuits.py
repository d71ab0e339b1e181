"""Find the circuits of relations on some subjects, and validate them on others."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from factlife import config, jobs, models, world
from factlife.circuits.discovery import discover_circuits
from factlife.circuits.seeds import write_circuits
from factlife.config.circuits import CircuitDiscovery, Hypothesis

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    known = [json.loads(Path(file).read_text()) for file in snakemake.input.get("known", [])]
    found = discover_circuits(
        *models.load_model(snakemake.input.model, job.device),
        world.load_world_of_table(snakemake.input.facts),
        models.list_checkpoints(snakemake.input.model),
        CircuitDiscovery(
            **snakemake.params.circuits,
            resamples=snakemake.params.resamples,
            batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
        ),
        config.parse(dict[str, Hypothesis], snakemake.params.hypotheses),
        {Path(folder).name: folder for folder in snakemake.input.get("saes", [])},
        dict(zip(snakemake.params.circuits["known_circuits"], known, strict=True)),
    )
    for table, path in (
        (found.table, snakemake.output.table),
        (found.hypotheses, snakemake.output.hypotheses),
        (found.heads, snakemake.output.heads),
    ):
        table.insert(0, "model", snakemake.wildcards.model)
        table.insert(1, "seed", int(snakemake.wildcards.seed))
        table.to_parquet(path, index=False)
    write_circuits(found.circuits, snakemake.output.circuits, provenance=job.provenance)
