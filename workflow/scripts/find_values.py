"""Find the target values of an editor's requests, all or a share of them."""

from typing import TYPE_CHECKING

from factlife import config, editing, jobs, models
from factlife.config.editing import Place, Schedule, Values
from factlife.corpus import documents
from factlife.editing import editable, places, values
from factlife.world.tables import read_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    requests = read_table(snakemake.input.requests)
    corpus = documents.read_documents(snakemake.input.documents)
    model, tokenizer = models.load(snakemake.input.model, job.device)
    place = config.parse(Place, snakemake.params.place)
    if chosen := snakemake.input.get("places"):
        place = places.resolve(place, editing.read_places([chosen]))
    values.find(
        editable.Editable(model, tokenizer, editable.contexts(corpus, requests["subject"].tolist())),
        requests,
        place,
        config.parse(Values, snakemake.params.values),
        config.parse(Schedule, snakemake.params.schedule),
        snakemake.output["values"],
        model=models.digest(snakemake.input.model),
        shard=int(snakemake.wildcards.shard),
        shards=snakemake.params.shards,
    )
