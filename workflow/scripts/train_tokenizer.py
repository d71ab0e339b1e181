"""Train a tokenizer on a corpus and on the probes of its world."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, world
from factlife.config.corpora import Tokenizer
from factlife.corpus import tokenizers

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    tokenizer = tokenizers.train_tokenizer(
        config.parse(Tokenizer, snakemake.params.tokenizer),
        corpus.read_documents(snakemake.input.documents)["text"],
        world.load_world_of_table(snakemake.input.get("facts")),
    )
    tokenizer.save_pretrained(snakemake.output.folder)
    job.write_manifest(snakemake.output.folder)
