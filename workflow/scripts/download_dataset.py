"""Download a pinned dataset from the hub."""

from typing import TYPE_CHECKING

from factlife import config, corpus, jobs
from factlife.config.corpora import Corpus

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    corpus.download_dataset(config.parse(Corpus, snakemake.params.corpus), snakemake.output.rows)
