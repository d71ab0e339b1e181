"""Factlife: the life of a fact in a language model."""

from snakemake.utils import min_version

min_version("9.25")


configfile: os.path.join(workflow.current_basedir, "config/config.yaml")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs/world.smk"
include: "workflow/rules/world.smk"
include: "workflow/rules/inputs/corpus.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/inputs/model.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/recall.smk"
include: "workflow/rules/inputs/saes.smk"
include: "workflow/rules/saes.smk"
include: "workflow/rules/inputs/graphs.smk"
include: "workflow/rules/graphs.smk"
include: "workflow/rules/tracing.smk"
include: "workflow/rules/inputs/circuits.smk"
include: "workflow/rules/circuits.smk"
include: "workflow/rules/inputs/editing.smk"
include: "workflow/rules/editing.smk"
include: "workflow/rules/inputs/influence.smk"
include: "workflow/rules/influence.smk"
include: "workflow/rules/dynamics.smk"
include: "workflow/rules/inputs/collapse.smk"
include: "workflow/rules/collapse.smk"
include: "workflow/rules/inputs/ledger.smk"
include: "workflow/rules/ledger.smk"
include: "workflow/rules/costs.smk"


rule all:
    """Everything that the config asks for."""
    default_target: True
    input:
        rules.recall.input,
        rules.circuits.input,
        rules.edits.input,
        rules.influence.input,
        rules.dynamics.input,
        rules.collapse.input,
        rules.ledger.input,
        rules.summarise_costs.output,


onstart:
    notify.send("Factlife has started", os.getcwd())


onsuccess:
    notify.send("Factlife is done", os.getcwd())


onerror:
    notify.send("Factlife has failed", f"{os.getcwd()}: see {log}")
