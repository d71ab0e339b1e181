"""Answer questions across stages."""

from typing import TYPE_CHECKING

from factlife import config, figures, jobs, ledger
from factlife.config.ledger import Ledger
from factlife.ledger import figures as drawn
from factlife.ledger import questions

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    settings, lives = config.parse(Ledger, snakemake.params.ledger), ledger.read(snakemake.input.ledger)
    answers = questions.answer(lives, settings.questions, resamples=settings.resamples)
    answers.to_csv(snakemake.output.table, index=False)
    figures.write_svg(drawn.effects(answers), snakemake.output.effects)
    figures.write_svg(drawn.outcomes(lives, answers), snakemake.output.outcomes)
