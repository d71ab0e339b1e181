def generation_folder(model, arm, seed, generation):
    """Folder of a generation; arms of a model with the same settings of generation 0 share it."""
    if generation == 0:
        arm = factlife_config.collapse.generation_zero_arm(ARMS[model], arm)
    return f"results/collapse/{model}/{arm}/seed-{seed}/generation-{generation}"


def arm_of(wildcards):
    return factlife_config.collapse.model_arms(settings, wildcards.model)[wildcards.arm]


def corpus_of_arm(wildcards):
    return config["corpora"][arm_of(wildcards).training.corpus]


def tasks_of_arm(wildcards):
    return {name: config["collapse"]["tasks"][name] for name in arm_of(wildcards).tasks}


def settings_of_generation(wildcards):
    return factlife_config.collapse.generation_settings(
        arm_of(wildcards), int(wildcards.generation)
    )


def inputs_of_generation(wildcards):
    """The model of generation 0, real documents, the generations to learn from, and the models that evaluate texts."""
    arm, generation = arm_of(wildcards), int(wildcards.generation)
    first = max(0, generation - 1) if arm.mode == "replace" else 0
    detector = {"gibberish_detector": "results/downloads/gibberish_detector"}
    files = detector if config["collapse"]["gibberish_detector"] else {}
    for name, task in tasks_of_arm(wildcards).items():
        if task["kind"] == "mmlu":
            downloaded = f"results/downloads/tasks/{name}.parquet"
            files[f"task_{name}"] = downloaded if task["dataset"] else task["path"]
    if model := config["models"][wildcards.model]["collapse"]["perplexity_model"]:
        seed = config["models"][model]["seeds"][0]
        files["perplexity_model"] = f"results/models/{model}/seed-{seed}"
    return files | {
        "base": f"results/models/{wildcards.model}/seed-{wildcards.seed}",
        "documents": f"results/corpora/{arm.training.corpus}/documents.parquet",
        "previous": [
            generation_folder(wildcards.model, wildcards.arm, wildcards.seed, previous)
            for previous in range(first, generation)
        ],
    }
