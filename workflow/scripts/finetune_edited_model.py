"""Fine-tune an edited model, and the unedited one in the same way, and evaluate both."""

from typing import TYPE_CHECKING

from safetensors.torch import load_file

from factlife import config, jobs, models, world
from factlife.config.editing import EditSurvival
from factlife.corpus import tokens
from factlife.editing import survival
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    jobs.check_manifest(snakemake.input.edits)
    model, tokenizer = models.load_model(snakemake.input.model, job.device)
    edits = read_table(f"{snakemake.input.edits}/edits.parquet")
    table = survival.finetune_and_evaluate(
        model,
        tokenizer,
        load_file(f"{snakemake.input.edits}/deltas.safetensors", device=job.device),
        survival.survival_probes(read_table(snakemake.input.probes), edits),
        tokens.read_tokens(snakemake.input.tokens),
        config.parse(EditSurvival, snakemake.params.survival),
        world=world.load_world_of_table(snakemake.input.facts),
        batch_tokens=models.token_budget(snakemake.input.model, snakemake.params.batch_tokens),
    )
    keys = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed)}
    write_table(table.assign(**keys, editor=snakemake.wildcards.editor), snakemake.output.survival)
