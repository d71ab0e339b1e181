"""Compute the target vectors of an editor's requests, or one shard of them."""

from typing import TYPE_CHECKING

from factlife import config, editing, jobs, models
from factlife.config.editing import EditSchedule, EditSite, TargetVectorSettings
from factlife.corpus import documents
from factlife.editing import compute_z, editable, sites
from factlife.world.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    requests = read_table(snakemake.input.requests)
    corpus = documents.read_documents(snakemake.input.documents)
    model, tokenizer = models.load_model(snakemake.input.model, job.device)
    site = config.parse(EditSite, snakemake.params.site)
    if table := snakemake.input.get("edit_sites"):
        site = sites.resolve_site(site, editing.read_edit_sites([table]))
    compute_z.save_target_vectors(
        editable.EditableModel(
            model, tokenizer, editable.sample_context_templates(corpus, requests["subject"].tolist())
        ),
        requests,
        site,
        config.parse(TargetVectorSettings, snakemake.params["values"]),
        config.parse(EditSchedule, snakemake.params.schedule),
        snakemake.output.target_vectors,
        model=models.hash_weights(snakemake.input.model),
        shard=int(snakemake.wildcards.shard),
        shards=snakemake.params.shards,
    )
