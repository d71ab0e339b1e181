"""Explain a model's facts by attribution graphs, intervene on their features, and write pages to look at them."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from factlife import config, jobs, models, world
from factlife.config.graphs import Graphs
from factlife.graphs import export
from factlife.graphs.explain import explain
from factlife.saes import dictionary as sae

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    jobs.check_manifest(snakemake.input.coders)
    features = pd.read_parquet(snakemake.input.features)
    found = explain(
        *models.load(snakemake.input.model, job.device),
        world.beside(snakemake.input.facts),
        sae.load_all(snakemake.input.coders, job.device),
        features.set_index(["layer", "feature"])["label"],
        config.parse(Graphs, snakemake.params.graphs),
    )
    names = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed)}
    pd.DataFrame(found.scores).assign(**names).to_parquet(snakemake.output.scores, index=False)
    pd.concat(found.interventions).assign(**names).to_parquet(snakemake.output.interventions, index=False)
    export.write(
        Path(snakemake.output.folder), found.shown, features, scan=f"{names['model']}-seed-{names['seed']}-{snakemake.params.coders}",
        settings=snakemake.params.graphs, provenance=job.provenance, about=names,
    )  # fmt: skip
    job.write_manifest(snakemake.output.folder)
