import os
import re
import sys

sys.path.insert(0, os.path.join(workflow.current_basedir, "../scripts"))

from snakemake.common.configfile import load_configfile

from factlife import config as factlife_config
from factlife import digest, notify

# The user's own mapping decides what replaces a default entry and what changes it, so the two are merged here. A workflow
# that uses this one as a module hands over a whole config.
if (
    workflow.modifier.skip_configfile
    or workflow.config_settings.replace_workflow_config
):
    default_config, user_config = config, {}
else:
    default_config = load_configfile(
        os.path.join(workflow.current_basedir, "../../config/config.yaml")
    )
    user_config = workflow.config_settings.overwrite_config

try:
    settings = factlife_config.read_config(default_config, user_config)
except factlife_config.ConfigError as error:
    raise WorkflowError(f"The config cannot be run:\n{error}") from None
# A new mapping: as a module, this workflow shares the old one with the workflow that uses it.
config = settings.model_dump(mode="json", warnings="none")

# Also in `params`. The number comes from the config, not from the machine, because sums depend on it in the last digits.
TORCH_THREADS = config["run"]["threads"]
TRAINED = [name for name, model in config["models"].items() if model["training"]]

# With `--sdm conda` packages are those of an environment, about which nothing is known here.
JOBS_USE_THIS_PYTHON = not (
    workflow.deployment_settings and workflow.deployment_settings.deployment_method
)
WORLD_TABLES = {
    table: f"results/worlds/{{world}}/{table}.parquet"
    for table in ("entities", "facts", "probes")
}


def logs(path):
    """Path of a job's log."""
    return f"logs/{path}.log"


def benchmarks(path):
    """Path of a job's benchmark."""
    return f"logs/{path}.benchmark.jsonl"


def code_of(script, section=None, wildcard=None):
    """Digest of the code that a script reaches; computed only for jobs in the DAG, since it takes a second for all rules.

    The entry of `section` that a wildcard names may be a class of the user's own, whose module counts too.
    """

    def digest_of_job(wildcards):
        kind = config[section][wildcards[wildcard]]["kind"] if section else ""
        return digest.code_of(script, *([kind.split(":")[0]] if ":" in kind else []))

    return digest_of_job


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"


def of_model(*path):
    """Function for `params`: a setting of the job's model, such as `of_model("editing", "requests")`."""

    def setting(wildcards):
        value = config["models"][wildcards.model]
        for key in path:
            value = value[key]
        return value

    return setting


def world_tables(world):
    return {table: path.format(world=world) for table, path in WORLD_TABLES.items()}


def world_of_model(wildcards):
    """Tables of the model's world; none for a model without a world."""
    world = config["models"][wildcards.model]["world"]
    return world_tables(world) if world else {}


def gpus_of_model(wildcards):
    return min(1, config["models"][wildcards.model]["gpu"])


def inputs_of_training(wildcards):
    """The initial model or tokenizer, and the tokens. A chain of models shares the tokenizer of its first model."""
    model = config["models"][wildcards.model]
    first = factlife_config.root_model(settings, wildcards.model)
    own = config["models"][first]["tokenizer"]
    before = model["source"].get("model")
    return {
        "start": (
            f"results/models/{before}/seed-{wildcards.seed}"
            if before
            else f"results/{'tokenizers' if own else 'sources'}/{own or first}"
        ),
        "tokens": f"results/tokens/{model['training']['corpus']}.{own or first}",
    }


def resume_folder(wildcards, output):
    """Outside of `results`, because Snakemake deletes outputs; modules with a prefix have their own."""
    return f"resume/{output.folder}"


def models_with(stage):
    """Models of the run that go through a stage."""
    return [name for name in config["run"]["models"] if config["models"][name][stage]]


def models_with_world():
    """Models of the run about whose facts something is known; all but those that only edit a file of requests."""
    return [name for name in config["run"]["models"] if config["models"][name]["world"]]


def for_all_models(pattern, only=None):
    """The pattern filled in for each seed of every model of the run, or of the models in `only`."""
    return [
        pattern.format(model=model, seed=seed)
        for model in config["run"]["models"]
        if only is None or model in only
        for seed in config["models"][model]["seeds"]
    ]


wildcard_constraints:
    sae=one_of(config["dictionaries"]),
    world=one_of(config["worlds"]),
    corpus=one_of(config["corpora"]),
    tokenizer=one_of([*config["tokenizers"], *config["models"]]),
    model=one_of(config["models"]),
    editor=one_of(config["editors"]),
    covariance=one_of(config["covariances"]),
    hypernetwork=one_of(config["hypernetworks"]),
    arm=one_of(config["collapse"]["arms"]),
    task=one_of(config["collapse"]["tasks"]),
    seed=r"0|[1-9]\d*",
    shard=r"0|[1-9]\d*",
    generation=r"0|[1-9]\d*",
