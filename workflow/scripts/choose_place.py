"""Try every token and block, and say which of them tracing and other choosers take."""

from typing import TYPE_CHECKING

import pandas as pd

from factlife import config, jobs, models
from factlife.config.editing import Editor, Places
from factlife.corpus import documents
from factlife.editing import editable, moments, places
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    requests = read_table(snakemake.input.requests)
    model, tokenizer = models.load(snakemake.input.model, job.device)
    target = editable.Editable(
        model,
        tokenizer,
        editable.contexts(documents.read_documents(snakemake.input.documents), requests["subject"].tolist()),
        moments.load(snakemake.input.moments, model=models.digest(snakemake.input.model)),
    )
    trace = snakemake.input.get("trace")
    swept, table = places.find(
        target,
        requests,
        read_table(snakemake.input.probes),
        config.parse(Editor, snakemake.params.editor) if snakemake.params.editor else None,
        config.parse(Places, snakemake.params.places),
        trace=pd.read_parquet(trace) if trace else None,
        batch_tokens=snakemake.params.batch_tokens,
        resamples=snakemake.params.resamples,
    )
    write_table(swept, snakemake.output.sweep)
    named = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed)}
    places.named(table, **named, editor=snakemake.params.places["editor"]).to_csv(snakemake.output.table, index=False)
