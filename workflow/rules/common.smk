import os
import re
import sys

sys.path.insert(0, os.path.join(workflow.current_basedir, "../scripts"))

from factlife import config as factlife_config
from factlife.config import collapse as factlife_collapse
from factlife import notify
from factlife import digest

try:
    settings = factlife_config.read_config(config)
except factlife_config.ConfigError as error:
    raise WorkflowError(f"The config cannot be run:\n{error}") from None
# A new mapping: as a module, this workflow shares the old one with the workflow that uses it.
config = settings.model_dump(mode="json")

# Also in `params`. The number comes from the config, not from the machine, because sums depend on it in the last digits.
TORCH_THREADS = config["run"]["threads"]

TRAINED = [name for name, model in config["models"].items() if model["training"]]
UNTRAINED = [name for name in config["models"] if name not in TRAINED]
PRETRAINED = [
    name
    for name, model in config["models"].items()
    if model["source"]["kind"] not in ("scratch", "trained")
]
# With `--sdm conda` packages are those of an environment, about which nothing is known here.
JOBS_USE_THIS_PYTHON = not (
    workflow.deployment_settings and workflow.deployment_settings.deployment_method
)
WORLDS_OF_RUN = sorted(
    {config["models"][model]["world"] for model in config["run"]["models"]}
)
WORLD_TABLES = {
    table: f"results/worlds/{{world}}/{table}.parquet"
    for table in ("entities", "facts", "probes")
}
EDITED = {
    model: edited
    for model, edited in config["editing"]["models"].items()
    if model in config["run"]["models"]
}


INFLUENCE = config["influence"]
RANKERS_BY_BACKEND = {
    backend: [
        name for name, ranker in INFLUENCE["rankers"].items() if ranker["kind"] in kinds
    ]
    for backend, kinds in factlife_config.influence.BACKENDS.items()
}
# The figure of retrained models and tail patches is drawn if any model has them.
DRAW_RETRAINING = any(
    INFLUENCE["models"].get(name, {}).get(section)
    for name in config["run"]["models"]
    for section in ("retrained_models", "tail_patch")
)
SWEEPS = {
    name: sweep
    for name, sweep in INFLUENCE["sweeps"].items()
    if any(point["model"] in config["run"]["models"] for point in sweep["points"])
}
SCORES = "results/influence/{model}/seed-{seed}/{corpus}.{ranker}.parquet"
# Arms of collapse that are run, and all their generations as (arm, seed, generation).
COLLAPSE_ARMS = [
    arm
    for arm in config["collapse"]["run"]
    if config["collapse"]["arms"][arm]["model"] in config["run"]["models"]
]
GENERATIONS = [
    (arm, seed, generation)
    for arm in COLLAPSE_ARMS
    for seed in config["models"][config["collapse"]["arms"][arm]["model"]]["seeds"]
    for generation in range(config["collapse"]["arms"][arm]["generations"] + 1)
]


WRITTEN = {
    name: corpus
    for name, corpus in settings.corpora.items()
    if corpus.kind == "written"
}


def code_of(script):
    """Digest of the code that a script reaches; computed only for jobs in the DAG, since it takes a second for all rules."""
    return lambda wildcards: digest.code_of(script)


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"


def world_tables(world):
    return {table: path.format(world=world) for table, path in WORLD_TABLES.items()}


def inputs_of_world_plot(wildcards):
    """A world's tables and, if a model of this run is trained on documents about it, these documents."""
    corpora = [
        config["models"][model]["training"]["corpus"]
        for model in config["run"]["models"]
        if model in TRAINED
    ]
    documents = [
        f"results/corpora/{corpus}/documents.parquet"
        for corpus in corpora
        if config["corpora"][corpus].get("world") == wildcards.world
    ]
    return world_tables(wildcards.world) | (
        {"documents": documents[0]} if documents else {}
    )


def inputs_of_world(wildcards):
    world = config["worlds"][wildcards.world]
    named = ("facts", "templates", "documents", "queries")
    return {key: world[key] for key in named if key in world}


def inputs_of_corpus(wildcards):
    corpus = config["corpora"][wildcards.corpus]
    if corpus["kind"] == "benchmark":
        path = config["worlds"][corpus["world"]]["documents"]
        return world_tables(corpus["world"]) | {"path": path}
    if "world" in corpus:
        return world_tables(corpus["world"])
    if corpus.get("dataset"):
        return {"path": f"results/downloads/corpora/{wildcards.corpus}.parquet"}
    return {"path": corpus["path"]} if corpus.get("path") else {}


def inputs_of_written(wildcards):
    corpus = WRITTEN[wildcards.corpus]
    seed = config["models"].get(corpus.writer.model, {}).get("seeds", [0])[0]
    folder = f"results/models/{corpus.writer.model}/seed-{seed}"
    return world_tables(corpus.world) | (
        {"writer": folder} if corpus.writer.kind == "model" else {}
    )


def fingerprint_of_written(wildcards):
    return factlife_config.written.fingerprint(settings, wildcards.corpus)


def gpus_of_writer(wildcards):
    return min(1, config["models"][WRITTEN[wildcards.corpus].writer.model]["gpu"])


def inputs_of_tokenizer(wildcards):
    corpus = config["tokenizers"][wildcards.tokenizer]["corpus"]
    world = config["corpora"][corpus].get("world")
    return {"documents": f"results/corpora/{corpus}/documents.parquet"} | (
        world_tables(world) if world else {}
    )


def tokenizer_folder(wildcards):
    kind = "tokenizers" if wildcards.tokenizer in config["tokenizers"] else "sources"
    return f"results/{kind}/{wildcards.tokenizer}"


def inputs_of_source(wildcards):
    source = settings.models[wildcards.model].source
    if source.kind == "gguf" and JOBS_USE_THIS_PYTHON and (problem := source.missing()):
        raise WorkflowError(f"models.{wildcards.model}.source: {problem}")
    adapter = settings.models[wildcards.model].adapter
    return ({"adapter": adapter} if adapter else {}) | {
        "hub": {"download": f"results/downloads/{wildcards.model}"},
        "folder": {"path": getattr(source, "path", None)},
    }.get(source.kind, {})


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


def world_of_model(wildcards):
    return world_tables(config["models"][wildcards.model]["world"])


def gpus_of_model(wildcards):
    return min(1, config["models"][wildcards.model]["gpu"])


def processes_of_training(wildcards):
    model = config["models"][wildcards.model]
    return max(model["gpu"], model["processes"])


def gpus_of_training(wildcards):
    model = config["models"][wildcards.model]
    return model["gpu"] * model["nodes"]


def threads_of_training(wildcards):
    """Threads per node."""
    return TORCH_THREADS * processes_of_training(wildcards)


def memory_of_training(wildcards):
    """Memory per node, in MB."""
    return 4000 * processes_of_training(wildcards)


def nodes_of_training(wildcards):
    nodes = config["models"][wildcards.model]["nodes"]
    return nodes if nodes > 1 else None


def mpi_of_training(wildcards):
    return "srun" if nodes_of_training(wildcards) else None


def tasks_per_gpu_of_training(wildcards):
    """0 with several nodes; otherwise Slurm's plugin would read `tasks` as tasks per GPU."""
    return 0 if nodes_of_training(wildcards) else None


def world_of_arm(arm):
    return config["models"][config["collapse"]["arms"][arm]["model"]]["world"]


def corpus_of_arm(wildcards):
    arm = config["collapse"]["arms"][wildcards.arm]
    return config["corpora"][arm["training"]["corpus"]]


def tasks_of_arm(wildcards):
    tasks = config["collapse"]["arms"][wildcards.arm]["tasks"]
    return {name: config["collapse"]["tasks"][name] for name in tasks}


def gpus_of_arm(wildcards):
    return min(
        1, config["models"][config["collapse"]["arms"][wildcards.arm]["model"]]["gpu"]
    )


def settings_of_generation(wildcards):
    arm = settings.collapse.arms[wildcards.arm]
    return factlife_collapse.generation_settings(arm, int(wildcards.generation))


def generation_folder(arm, seed, generation):
    """Folder of a generation; arms with the same settings of generation 0 share it."""
    if generation == 0:
        arm = factlife_collapse.generation_zero_arm(settings.collapse, arm)
    return f"results/collapse/{arm}/seed-{seed}/generation-{generation}"


def inputs_of_generation(wildcards):
    arm, generation = settings.collapse.arms[wildcards.arm], int(wildcards.generation)
    first = max(0, generation - 1) if arm.mode == "replace" else 0
    detector = {"gibberish_detector": "results/downloads/gibberish_detector"}
    files = detector if config["collapse"]["gibberish_detector"] else {}
    for name, task in tasks_of_arm(wildcards).items():
        if task["kind"] == "mmlu":
            downloaded = f"results/downloads/tasks/{name}.parquet"
            files[f"task_{name}"] = downloaded if task["dataset"] else task["path"]
    if arm.perplexity_model:
        seed = settings.models[arm.perplexity_model].seeds[0]
        files["perplexity_model"] = f"results/models/{arm.perplexity_model}/seed-{seed}"
    return (
        world_tables(world_of_arm(wildcards.arm))
        | files
        | {
            "base": f"results/models/{arm.model}/seed-{wildcards.seed}",
            "documents": f"results/corpora/{arm.training.corpus}/documents.parquet",
            "previous": [
                generation_folder(wildcards.arm, wildcards.seed, previous)
                for previous in range(first, generation)
            ],
        }
    )


def for_all_models(pattern, only=None):
    """The pattern filled in for each seed of every model of the run, or of the models in `only`."""
    return [
        pattern.format(model=model, seed=seed)
        for model in config["run"]["models"]
        if only is None or model in only
        for seed in config["models"][model]["seeds"]
    ]


def tokens_of_edits(wildcards):
    """The tokenized corpus of the model's key covariance, on which edited models are fine-tuned."""
    covariance = config["editing"]["models"][wildcards.model]["covariance"]
    corpus = config["editing"]["covariances"][covariance]["corpus"]
    return f"results/tokens/{corpus}.{config['models'][wildcards.model]['tokenizer'] or wildcards.model}"


def files_of_requests(wildcards):
    """The file of requests that do not come from the world, and CounterFact's attribute snippets."""
    requests = config["editing"]["models"][wildcards.model]["requests"]
    files = {
        key: requests[key] for key in ("path", "attribute_snippets") if requests[key]
    }
    if requests["dataset"]:
        files["path"] = f"results/downloads/requests/{wildcards.model}.parquet"
    return files


def recall_of_requests(wildcards):
    """The model's recall, if only known facts are edited."""
    requests = config["editing"]["models"][wildcards.model]["requests"]
    recall = f"results/recall/{wildcards.model}/seed-{wildcards.seed}.parquet"
    return {"recall": recall} if requests["known_only"] else {}


def contexts_of_edits(wildcards):
    """The corpus of the model's key covariance, from which context templates are sampled."""
    covariance = config["editing"]["models"][wildcards.model]["covariance"]
    corpus = config["editing"]["covariances"][covariance]["corpus"]
    return {"documents": f"results/corpora/{corpus}/documents.parquet"}


def inputs_of_target_vectors(wildcards):
    """The corpus of context templates, and the table of edit sites if it chooses the editor's site."""
    in_config = editor_of(wildcards)["choose_by"] == "config"
    sites = f"results/edit_sites/{wildcards.model}/seed-{wildcards.seed}.csv"
    return contexts_of_edits(wildcards) | ({} if in_config else {"edit_sites": sites})


def inputs_of_edits(wildcards):
    """The key covariance, the corpus of context templates, and the inputs of the editor's own."""
    editor, run = editor_of(wildcards), f"{wildcards.model}/seed-{wildcards.seed}"
    edited = config["editing"]["models"][wildcards.model]
    covariance = editor.get("covariance") or edited["covariance"]
    inputs = contexts_of_edits(wildcards)
    inputs["covariance"] = f"results/covariance/{run}/{covariance}.safetensors"
    if "editor" not in wildcards.keys():
        traced = wildcards.model in config["tracing"]["models"]
        return inputs | ({"trace": f"results/tracing/{run}.parquet"} if traced else {})
    if corpus := edited["evaluation"]["perplexity_corpus"]:
        inputs["text"] = f"results/corpora/{corpus}/documents.parquet"
    if "fact_token" in editor:
        inputs |= inputs_of_target_vectors(wildcards)
    if network := editor.get("hypernetwork"):
        inputs["hypernetwork"] = f"results/hypernetworks/{run}/{network}.safetensors"
    source = factlife_config.editing.target_vector_source(
        settings.editing, wildcards.model, wildcards.editor
    )
    if source:
        shards = range(edited["target_vectors"]["shards"])
        inputs["target_vectors"] = expand(
            f"results/target_vectors/{run}/{source}/shard-{{shard}}.safetensors",
            shard=shards,
        )
    return inputs


def editor_of(wildcards):
    """Settings of a job's editor; without an `editor` wildcard, that of the model's site sweep."""
    swept = config["editing"]["models"][wildcards.model]["site_sweep"]["editor"]
    return config["editing"]["editors"].get(wildcards.get("editor", swept), {})


def site_of_editor(wildcards):
    """The part of an editor's settings that says where it edits."""
    editor = config["editing"]["editors"][wildcards.editor]
    return {key: editor[key] for key in ("fact_token", "layers", "choose_by", "spread")}


def inputs_of_covariance(wildcards):
    """The corpus, and the requests if documents about their subjects are left out."""
    covariance = config["editing"]["covariances"][wildcards.covariance]
    tokenizer = config["models"][wildcards.model]["tokenizer"] or wildcards.model
    requests = (
        f"results/requests/{wildcards.model}/seed-{wildcards.seed}/requests.parquet"
    )
    return {"tokens": f"results/tokens/{covariance['corpus']}.{tokenizer}"} | (
        {} if covariance["include_edited_subjects"] else {"requests": requests}
    )


def for_all_editors(pattern):
    return [
        pattern.format(model=model, seed=seed, editor=editor)
        for model, edited in EDITED.items()
        for seed in config["models"][model]["seeds"]
        for editor in edited["editors"]
    ]


def for_editors_with_tasks(pattern):
    """The pattern for every editor of a model with downstream tasks, except those that roll back their edits."""
    return [
        pattern.format(model=model, seed=seed, editor=editor)
        for model, edited in EDITED.items()
        for seed in config["models"][model]["seeds"]
        for editor in edited["editors"]
        if edited["evaluation"]["tasks"]
        and config["editing"]["editors"][editor]["schedule"]["kind"] != "single"
    ]


def ledger_artifacts():
    """Paths of the artifacts that the ledger joins, for every model in the run and each of its seeds."""
    return [
        artifacts_of_model(model, seed)
        for model in config["run"]["models"]
        for seed in config["models"][model]["seeds"]
    ]


def artifacts_of_model(model, seed):
    """Paths of all artifacts that describe the facts of one model and seed."""
    run = f"{model}/seed-{seed}"
    paths = {
        "model": model,
        "seed": seed,
        "facts": f"results/worlds/{config['models'][model]['world']}/facts.parquet",
        "recall": f"results/recall/{run}.parquet",
        "model_folder": f"results/models/{run}",
    }
    if model in TRAINED:
        paths["documents"] = (
            "results/corpora/{training[corpus]}/documents.parquet".format(
                **config["models"][model]
            )
        )
    if model in config["tracing"]["models"]:
        paths["tracing"] = f"results/tracing/{run}.parquet"
    if model in config["circuits"]["models"]:
        paths["circuits"] = f"results/circuits/{run}/evaluation.parquet"
    if model in config["graphs"]["models"]:
        paths["graphs"] = f"results/graphs/{run}"
    if INFLUENCE["models"].get(model, {}).get("rankers"):
        paths["influence"] = f"results/influence/{run}.query-metrics.parquet"
        corpus = factlife_config.influence.ranked_corpus(settings, model)
        paths["rankings"] = {
            ranker: SCORES.format(model=model, seed=seed, corpus=corpus, ranker=ranker)
            for ranker in INFLUENCE["models"][model]["rankers"]
        }
    if model in EDITED:
        paths["edits"] = [
            f"results/edits/{run}/{editor}" for editor in EDITED[model]["editors"]
        ]
        paths["requests"] = f"results/requests/{run}/requests.parquet"
        if EDITED[model]["site_sweep"]["editor"]:
            paths["edit_sites"] = f"results/edit_sites/{run}.parquet"
        survival_editors = EDITED[model]["survival"]["editors"]
        if survival_editors:
            paths["survival"] = [
                f"results/survival/{run}/{editor}.parquet"
                for editor in survival_editors
            ]
    arms = [
        arm
        for arm in COLLAPSE_ARMS
        if config["collapse"]["arms"][arm]["model"] == model
    ]
    if arms:
        paths["generations"] = {
            arm: [
                generation_folder(arm, seed, generation)
                for generation in range(
                    config["collapse"]["arms"][arm]["generations"] + 1
                )
            ]
            for arm in arms
        }
    return paths


def paths_of_artifacts(artifacts):
    """All paths of one model's artifacts as a flat list."""
    paths = []
    for key in artifacts.keys() - {"model", "seed"}:
        value = artifacts[key]
        groups = value.values() if isinstance(value, dict) else [value]
        paths += [
            path
            for group in groups
            for path in (group if isinstance(group, list) else [group])
        ]
    return sorted(paths)


def corpus_to_rank(wildcards):
    return factlife_config.influence.ranked_corpus(settings, wildcards.model)


def documents_to_rank(wildcards):
    return f"results/corpora/{corpus_to_rank(wildcards)}/documents.parquet"


def scores_of_model(wildcards):
    return expand(
        SCORES,
        **wildcards,
        corpus=corpus_to_rank(wildcards),
        ranker=INFLUENCE["models"][wildcards.model]["rankers"],
    )


def scores_of_ranker(wildcards):
    """Scores of the model's first seed, since retrained models belong to no seed."""
    seed = config["models"][wildcards.model]["seeds"][0]
    return expand(SCORES, **wildcards, seed=seed, corpus=corpus_to_rank(wildcards))


def retrained_models_of(wildcards):
    """Files of all models retrained without some documents."""
    if not (retrained := INFLUENCE["models"][wildcards.model]["retrained_models"]):
        return []
    parts = [f"shard-{shard}" for shard in range(retrained["shards"])]
    parts += [
        f"without-top-k-{ranker}"
        for ranker in (retrained["top_k_removal"] or {}).get("rankers", [])
    ]
    return [
        f"results/influence/{wildcards.model}/retrained/{part}.parquet"
        for part in parts
    ]


def tail_patch_of_model(wildcards):
    if not INFLUENCE["models"][wildcards.model]["tail_patch"]:
        return []
    return expand(
        "results/influence/{model}/seed-{seed}.tail-patch.parquet", **wildcards
    )


def encoder_of_ranker(wildcards):
    source = INFLUENCE["rankers"][wildcards.ranker]["source"]
    return source.get("path") or f"results/downloads/encoders/{wildcards.ranker}"


def for_influence_models(pattern):
    ranked = [name for name, model in INFLUENCE["models"].items() if model["rankers"]]
    return for_all_models(pattern, only=ranked)


EDIT_SURVIVAL = [
    f"results/survival/{model}/seed-{seed}/{editor}.parquet"
    for model, edited in EDITED.items()
    for seed in config["models"][model]["seeds"]
    for editor in edited["survival"]["editors"]
]


# Models with a site sweep.
EDIT_SITES = for_all_models(
    "results/edit_sites/{model}/seed-{seed}.csv",
    only=[model for model, edited in EDITED.items() if edited["site_sweep"]["editor"]],
)


def hypotheses_of_model(wildcards):
    return {
        name: hypothesis
        for name, hypothesis in config["hypotheses"].items()
        if hypothesis["model"] == wildcards.model
    }


def saes_of_hypotheses(wildcards):
    """Folders of the autoencoders whose features the model's hypotheses name."""
    names = [
        hypothesis["component"].split("/")[0]
        for hypothesis in hypotheses_of_model(wildcards).values()
        if "layer-" in hypothesis["component"]
    ]
    return expand(
        "results/saes/{model}/seed-{seed}/{sae}",
        sae=sorted(set(names)),
        model=wildcards.model,
        seed=wildcards.seed,
    )


wildcard_constraints:
    sae=one_of(config["dictionaries"]),
    world=one_of(config["worlds"]),
    corpus=one_of(config["corpora"]),
    tokenizer=one_of([*config["tokenizers"], *config["models"]]),
    model=one_of(config["models"]),
    seed=r"0|[1-9]\d*",
    shard=r"0|[1-9]\d*",
    arm=one_of(config["collapse"]["arms"]),
    task=one_of(config["collapse"]["tasks"]),
    generation=r"0|[1-9]\d*",
