"""Let a language model write documents and keep those that pass the check."""

import logging
from typing import TYPE_CHECKING

from factlife import config, corpus, jobs, models, world
from factlife.config.corpora import Corpus
from factlife.corpus import written

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(Corpus, snakemake.params.corpus)
    writer = (
        models.load_writer(
            snakemake.input.writer,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            device=job.device,
        )
        if snakemake.input.get("writer")
        else written.api_writer(settings)
    )
    answers = written.AnswerCache(settings.answers, writer)
    documents, verdicts = written.generate_documents(
        world.load_world_of_table(snakemake.input.facts), settings, answers
    )
    corpus.write_documents(documents, snakemake.output.documents)
    verdicts.to_csv(snakemake.output.verdicts, index=False)
    logging.info("answers: %s", verdicts["verdict"].value_counts().to_dict())
    answers.finish(snakemake.params.fingerprint)
