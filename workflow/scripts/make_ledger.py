"""Join what all stages say of every fact, ask what one says of another, and tell what was found."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import config, figures, jobs, ledger
from factlife.config.ledger import Ledger
from factlife.ledger import figures as drawn
from factlife.ledger import findings, questions, reproductions, summaries

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    settings = config.parse(Ledger, snakemake.params.ledger)
    lives = ledger.build(snakemake.params.lives)
    ledger.write(lives, snakemake.output.ledger)
    lives.to_csv(snakemake.output.csv, index=False)
    ledger.write_page(lives, snakemake.params.lives, snakemake.output.page)
    answers = questions.answer(lives, settings.questions, resamples=settings.resamples)
    answers.to_csv(snakemake.output.questions, index=False)
    figures.write_svg(drawn.effects(answers), snakemake.output.effects)
    figures.write_svg(drawn.outcomes(lives, answers), snakemake.output.outcomes)
    tables = summaries.read(snakemake.input.summaries)
    told = findings.restructured_text(findings.findings(tables), job.provenance["versions"])
    Path(snakemake.output.findings).write_text(told, encoding="utf-8")
    held = reproductions.reproductions(tables)
    held.to_csv(snakemake.output.reproductions, index=False)
    Path(snakemake.output.published).write_text(reproductions.page(held), encoding="utf-8")
