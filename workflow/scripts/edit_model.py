"""Write requests into a model with one editor, and judge them before and after."""

from typing import TYPE_CHECKING

from factlife import config, editing, jobs, models
from factlife.config.editing import Editor, Measured
from factlife.corpus import documents
from factlife.editing import editable, measures, mend, moments, places, run, values
from factlife.world.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    weights = models.digest(snakemake.input.model)
    requests = read_table(snakemake.input.requests)
    corpus = documents.read_documents(snakemake.input.documents)
    model, tokenizer = models.load(snakemake.input.model, job.device)
    editor = config.parse(Editor, snakemake.params.editor)
    if chosen := snakemake.input.get("places"):
        place = places.resolve(editor.place, editing.read_places([chosen]))
        editor = editor.model_copy(update={"place": place})
    network = snakemake.input.get("hypernetwork")
    target = editable.Editable(
        model,
        tokenizer,
        editable.contexts(corpus, requests["subject"].tolist()),
        moments.load(snakemake.input.moments, model=weights),
        mend.load(network, model=weights, device=job.device) if network else None,
    )
    if shards := snakemake.input.get("values"):
        target = values.load(target, requests, editor, shards, model=weights)
    wanted = config.parse(Measured, snakemake.params.measures)
    read = documents.read_documents(snakemake.input.text) if wanted.perplexity else corpus.head(0)
    done = run.run(
        target,
        requests,
        read_table(snakemake.input.probes),
        editor,
        measures=measures.Measures(
            wanted,
            measures.held_out(read, set(requests["entity_id"]), wanted),
            measures.references(requests, corpus),
        ),
        batch_tokens=snakemake.params.batch_tokens,
    )
    run.save(done, snakemake.output.folder, **snakemake.wildcards)
    job.write_manifest(snakemake.output.folder, weights=weights)
