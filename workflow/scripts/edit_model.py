"""Edit a model with one editor, and evaluate the edits before and after."""

from typing import TYPE_CHECKING

from factlife import config, editing, jobs, models
from factlife.config.editing import EditEvaluation, Editor
from factlife.corpus import documents
from factlife.editing import compute_z, covariance, editable, mend, metrics, schedules, sites
from factlife.world.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    weights = models.hash_weights(snakemake.input.model)
    requests = read_table(snakemake.input.requests)
    corpus = documents.read_documents(snakemake.input.documents)
    model, tokenizer = models.load_model(snakemake.input.model, job.device)
    editor = config.parse(Editor, snakemake.params.editor)
    if table := snakemake.input.get("edit_sites"):
        site = sites.resolve_site(editor.site, editing.read_edit_sites([table]))
        editor = editor.model_copy(update=site.model_dump())
    network = snakemake.input.get("hypernetwork")
    target = editable.EditableModel(
        model,
        tokenizer,
        editable.sample_context_templates(corpus, requests["subject"].tolist()),
        covariance.load_covariance(snakemake.input.covariance, model=weights),
        mend.load_hypernetwork(network, model=weights, device=job.device) if network else None,
    )
    if shards := snakemake.input.get("target_vectors"):
        target = compute_z.load_target_vectors(target, requests, editor, shards, model=weights)
    evaluation = config.parse(EditEvaluation, snakemake.params.evaluation)
    text = documents.read_documents(snakemake.input.text) if evaluation.perplexity_corpus else corpus.head(0)
    result = schedules.run_editor(
        target,
        requests,
        read_table(snakemake.input.probes),
        editor,
        metrics=metrics.EditMetrics(
            evaluation,
            metrics.perplexity_texts(text, set(requests["entity_id"]), evaluation),
            metrics.reference_texts(requests, corpus),
        ),
        batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
    )
    schedules.save_result(result, snakemake.output.folder, **snakemake.wildcards)
    job.write_manifest(snakemake.output.folder, weights=weights)
