# Arms of each model of the run, with the corpora of their real documents.
ARMS = {
    model: factlife_config.collapse.model_arms(settings, model)
    for model in models_with("collapse")
}
ARM_SETTINGS = {
    model: {name: arm.model_dump(mode="json") for name, arm in arms.items()}
    for model, arms in ARMS.items()
}
GENERATIONS = [
    (model, arm, seed, generation)
    for model, arms in ARMS.items()
    for arm, arm_settings in arms.items()
    for seed in config["models"][model]["seeds"]
    for generation in range(arm_settings.generations + 1)
]
GENERATION_FOLDERS = [generation_folder(*keys) for keys in GENERATIONS]
UPLOAD = config["collapse"]["upload"]
UPLOADED = [
    [model, arm, seed, generation]
    for model, arm, seed, generation in GENERATIONS
    if UPLOAD
    and (
        UPLOAD["models"] == "all"
        or UPLOAD["models"] == "last"
        and generation == ARMS[model][arm].generations
    )
]


# Declared only for an upload: a missing environment variable stops every run.
if UPLOAD:

    envvars:
        "HF_TOKEN",


rule download_detector:
    """Download a gibberish classifier from the hub; compute nodes have no internet."""
    output:
        folder=directory("results/downloads/gibberish_detector"),
    log:
        logs("download_detector/all"),
    benchmark:
        benchmarks("download_detector/all")
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        source={"kind": "hub"} | (config["collapse"]["gibberish_detector"] or {}),
    script:
        "../scripts/download_model.py"


rule download_task:
    """Download the questions of a task from the hub; compute nodes have no internet."""
    output:
        questions="results/downloads/tasks/{task}.parquet",
    log:
        logs("download_task/{task}"),
    benchmark:
        benchmarks("download_task/{task}")
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        task=lambda wildcards: config["collapse"]["tasks"][wildcards.task],
    script:
        "../scripts/download_task.py"


rule train_generation:
    """Train a model on text of the previous generation, generate texts and evaluate both."""
    input:
        unpack(world_of_model),
        unpack(inputs_of_generation),
    output:
        folder=directory(
            "results/collapse/{model}/{arm}/seed-{seed}/generation-{generation}"
        ),
    log:
        logs("train_generation/{model}/{arm}/seed-{seed}/generation-{generation}"),
    benchmark:
        benchmarks("train_generation/{model}/{arm}/seed-{seed}/generation-{generation}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        arm=settings_of_generation,
        corpus=corpus_of_arm,
        resume=resume_folder,
        batch_tokens=of_model("batch_tokens"),
        tasks=tasks_of_arm,
        code=code_of("train_generation"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/train_generation.py"


rule summarise_collapse:
    """Summarise and plot recall and text of all generations."""
    input:
        generations=GENERATION_FOLDERS,
        facts=[
            world_tables(config["models"][model]["world"])["facts"] for model in ARMS
        ],
    output:
        table="results/tables/collapse.csv",
        stages="results/tables/collapse_stages.csv",
        tasks="results/tables/collapse_tests.csv",
        recall=report(
            "results/figures/collapse-recall.svg",
            category="7. Collapse",
            labels={"figure": "Recall by frequency"},
            caption="../report/collapse-recall.rst",
        ),
        text=report(
            "results/figures/collapse-text.svg",
            category="7. Collapse",
            labels={"figure": "Generated text"},
            caption="../report/collapse-text.rst",
        ),
        recall_drop=report(
            "results/figures/collapse-recall-drop.svg",
            category="7. Collapse",
            labels={"figure": "Recall drop by arm"},
            caption="../report/collapse-recall-drop.rst",
        ),
        formats=report(
            "results/figures/collapse-formats.svg",
            category="7. Collapse",
            labels={"figure": "Accuracy by prompt format and in tasks"},
            caption="../report/collapse-formats.rst",
        ),
        stage_ends=report(
            "results/figures/collapse-stage-ends.svg",
            category="7. Collapse",
            labels={"figure": "Stages of collapse"},
            caption="../report/collapse-stage-ends.rst",
        ),
        onsets=report(
            "results/figures/collapse-onsets.svg",
            category="7. Collapse",
            labels={"figure": "Onsets and lead times"},
            caption="../report/collapse-onsets.rst",
        ),
        samples=report(
            "results/figures/collapse-samples.html",
            category="7. Collapse",
            labels={"figure": "Generated texts side by side"},
            caption="../report/collapse-samples.rst",
        ),
    log:
        logs("summarise_collapse/all"),
    benchmark:
        benchmarks("summarise_collapse/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        generations=[list(keys) for keys in GENERATIONS],
        arms=ARM_SETTINGS,
        resamples=config["run"]["resamples"],
        code=code_of("summarise_collapse"),
    script:
        "../scripts/summarise_collapse.py"


rule upload_collapse:
    """Upload models and tables to a repository of the hub."""
    input:
        models=[generation_folder(*keys) for keys in UPLOADED],
        tables=[
            rules.summarise_collapse.output.table,
            rules.summarise_collapse.output.stages,
            rules.summarise_collapse.output.tasks,
        ],
    output:
        result="results/collapse/upload.json",
    log:
        logs("upload_collapse/all"),
    benchmark:
        benchmarks("upload_collapse/all")
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        upload=UPLOAD,
        models=UPLOADED,
        arms=ARM_SETTINGS,
        code=code_of("upload_collapse"),
    script:
        "../scripts/upload_collapse.py"


rule collapse:
    """What models forget when trained on their own output."""
    input:
        rules.summarise_collapse.output if GENERATIONS else [],
        rules.upload_collapse.output if GENERATIONS and UPLOAD else [],
