"""Build attribution graphs of a model's facts, intervene on their features, and write a page for some of them."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from factlife import config, jobs, models, world
from factlife.config.graphs import Graphs
from factlife.graphs.build import build_attribution_graphs
from factlife.graphs.export import write_graphs
from factlife.saes.dictionary import load_dictionaries

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    jobs.check_manifest(snakemake.input.transcoders)
    features = pd.read_parquet(snakemake.input.features)
    results = build_attribution_graphs(
        *models.load_model(snakemake.input.model, job.device),
        world.load_world_of_table(snakemake.input.facts),
        load_dictionaries(snakemake.input.transcoders, job.device),
        features.set_index(["layer", "feature"])["label"],
        config.parse(Graphs, snakemake.params.graphs),
    )
    names = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed)}
    pd.DataFrame(results.scores).assign(**names).to_parquet(snakemake.output.scores, index=False)
    pd.concat(results.interventions).assign(**names).to_parquet(snakemake.output.interventions, index=False)
    scan = f"{names['model']}-seed-{names['seed']}-{snakemake.params.transcoder}"
    write_graphs(
        Path(snakemake.output.folder), results.pages, features, scan=scan, settings=snakemake.params.graphs,
        provenance=job.provenance, model_info=names,
    )  # fmt: skip
    job.write_manifest(snakemake.output.folder)
