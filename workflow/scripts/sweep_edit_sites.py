"""Edit the model at every token and layer, and compare the sites that tracing and other criteria choose."""

from typing import TYPE_CHECKING

import pandas as pd

from factlife import config, jobs, models
from factlife.config.editing import Editor, SiteSweep
from factlife.corpus import documents
from factlife.editing import covariance, editable, sites
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    requests = read_table(snakemake.input.requests)
    model, tokenizer = models.load_model(snakemake.input.model, job.device)
    target = editable.EditableModel(
        model,
        tokenizer,
        editable.sample_context_templates(
            documents.read_documents(snakemake.input.documents), requests["subject"].tolist()
        ),
        covariance.load_covariance(snakemake.input.covariance, model=models.hash_weights(snakemake.input.model)),
    )
    trace = snakemake.input.get("trace")
    sweep, table = sites.compare_sites(
        target,
        requests,
        read_table(snakemake.input.probes),
        config.parse(Editor, snakemake.params.editor) if snakemake.params.editor else None,
        config.parse(SiteSweep, snakemake.params.site_sweep),
        trace=pd.read_parquet(trace) if trace else None,
        batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
        resamples=snakemake.params.resamples,
    )
    write_table(sweep, snakemake.output.sweep)
    keys = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed)}
    editor = snakemake.params.site_sweep["editor"]
    sites.add_keys(table, **keys, editor=editor).to_csv(snakemake.output.table, index=False)
