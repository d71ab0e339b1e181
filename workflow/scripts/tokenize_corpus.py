"""Tokenize the documents of a corpus."""

from typing import TYPE_CHECKING

from factlife import corpus, jobs
from factlife.corpus import tokens

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    tokens.tokenize_corpus(
        corpus.read_documents(snakemake.input.documents), snakemake.input.tokenizer, snakemake.output.folder
    )
    job.write_manifest(snakemake.output.folder)
