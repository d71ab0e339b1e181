"""Learn a tokenizer from a corpus and from all that is asked about its world."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, world
from factlife.config.corpora import Tokenizer
from factlife.corpus import tokenizers

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    tokenizer = tokenizers.train(
        config.parse(Tokenizer, snakemake.params.tokenizer),
        corpus.read(snakemake.input.documents)["text"],
        world.beside(snakemake.input.get("facts")),
    )
    tokenizer.save_pretrained(snakemake.output.folder)
    job.write_manifest(snakemake.output.folder)
