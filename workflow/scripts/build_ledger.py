"""Join the results of all stages by fact, answer the questions across stages and write the report's findings."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlife import config, figures, jobs, ledger
from factlife.config.ledger import Question
from factlife.ledger import figures as ledger_figures
from factlife.ledger import questions, report_text, reproductions, summary_tables

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    asked = config.parse(dict[str, Question], snakemake.params.questions)
    table = ledger.build_ledger(snakemake.params.artifacts)
    ledger.write_ledger(table, snakemake.output.ledger)
    table.to_csv(snakemake.output.csv, index=False)
    ledger.write_fact_page(table, snakemake.params.artifacts, snakemake.output.page)
    answers = questions.answer_questions(table, asked, resamples=snakemake.params.resamples)
    answers.to_csv(snakemake.output.questions, index=False)
    figures.write_svg(ledger_figures.plot_effects(answers), snakemake.output.effects)
    figures.write_svg(ledger_figures.plot_outcomes(table, answers), snakemake.output.outcomes)
    tables = summary_tables.read_tables(snakemake.input.summaries)
    text = report_text.format_findings(report_text.report_findings(tables), job.provenance["versions"])
    Path(snakemake.output.findings).write_text(text, encoding="utf-8")
    claims = reproductions.evaluate_claims(tables)
    claims.to_csv(snakemake.output.reproductions, index=False)
    Path(snakemake.output.claims).write_text(reproductions.claims_page(claims), encoding="utf-8")
