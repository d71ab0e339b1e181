"""Fine-tune an edited model, and the unedited one alike, and ask what they still say."""

from typing import TYPE_CHECKING

from safetensors.torch import load_file

from factlife import config, jobs, models, world
from factlife.config.editing import Survival
from factlife.corpus import tokens
from factlife.editing import survival
from factlife.world.tables import read_table, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake) as job:
    jobs.check_manifest(snakemake.input.model)
    jobs.check_manifest(snakemake.input.edits)
    model, tokenizer = models.load(snakemake.input.model, job.device)
    table = survival.survive(
        model,
        tokenizer,
        load_file(f"{snakemake.input.edits}/deltas.safetensors", device=job.device),
        survival.followed(read_table(snakemake.input.probes), read_table(f"{snakemake.input.edits}/edits.parquet")),
        tokens.read_tokens(snakemake.input.tokens),
        config.parse(Survival, snakemake.params.survival),
        world=world.load_world_of_table(snakemake.input.facts),
        batch_tokens=snakemake.params.batch_tokens,
    )
    names = {"model": snakemake.wildcards.model, "seed": int(snakemake.wildcards.seed)}
    write_table(table.assign(**names, editor=snakemake.wildcards.editor), snakemake.output.survival)
