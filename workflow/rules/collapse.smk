GENERATIONS = [generation_folder(*one) for one in CHAIN]
UPLOAD = config["collapse"]["upload"]
UPLOADED = [
    [arm, seed, generation]
    for arm, seed, generation in CHAIN
    if UPLOAD
    and (
        UPLOAD["models"] == "all"
        or UPLOAD["models"] == "last"
        and generation == config["collapse"]["arms"][arm]["generations"]
    )
]
# Declared only where it is needed: an environment variable that is not set stops every run.
if UPLOAD:

    envvars:
        "HF_TOKEN",


rule download_detector:
    """Fetch a classifier of gibberish from the hub; compute nodes have no internet."""
    output:
        folder=directory("results/downloads/detector"),
    log:
        "logs/download_detector/all.log",
    benchmark:
        "logs/download_detector/all.benchmark.jsonl"
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        source={"kind": "hub"} | (config["collapse"]["detector"] or {}),
    script:
        "../scripts/download_model.py"


rule download_test:
    """Fetch the questions of a test from the hub; compute nodes have no internet."""
    output:
        questions="results/downloads/tests/{test}.parquet",
    log:
        "logs/download_test/{test}.log",
    benchmark:
        "logs/download_test/{test}.benchmark.jsonl"
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        test=lookup(within=config, dpath="collapse/tests/{test}"),
    script:
        "../scripts/download_test.py"


rule run_generation:
    """Train a model on what the one before it wrote, let it write, and measure both."""
    input:
        unpack(inputs_of_generation),
    output:
        folder=directory("results/collapse/{arm}/seed-{seed}/generation-{generation}"),
    log:
        "logs/run_generation/{arm}/seed-{seed}/generation-{generation}.log",
    benchmark:
        "logs/run_generation/{arm}/seed-{seed}/generation-{generation}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_arm,
    params:
        arm=settings_of_generation,
        corpus=corpus_of_arm,
        resume=resume_folder,
        batch_tokens=lookup(within=config, dpath="recall/batch_tokens"),
        tests=tests_of_arm,
        code=code_of("run_generation"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/run_generation.py"


rule summarise_collapse:
    """Summarise and draw what each generation still knows and how it writes."""
    input:
        generations=GENERATIONS,
        facts=[world_tables(world_of_arm(arm))["facts"] for arm in ARMS],
    output:
        table="results/tables/collapse.csv",
        stages="results/tables/collapse_stages.csv",
        tests="results/tables/collapse_tests.csv",
        recall=report(
            "results/figures/collapse-recall.svg",
            category="7. Collapse",
            labels={"figure": "Facts recalled, by frequency"},
            caption="../report/collapse-recall.rst",
        ),
        text=report(
            "results/figures/collapse-text.svg",
            category="7. Collapse",
            labels={"figure": "What generations write"},
            caption="../report/collapse-text.rst",
        ),
        lost=report(
            "results/figures/collapse-lost.svg",
            category="7. Collapse",
            labels={"figure": "What each arm has lost"},
            caption="../report/collapse-lost.rst",
        ),
        formats=report(
            "results/figures/collapse-formats.svg",
            category="7. Collapse",
            labels={"figure": "Accuracy by format and in tests"},
            caption="../report/collapse-formats.rst",
        ),
        boundaries=report(
            "results/figures/collapse-stages.svg",
            category="7. Collapse",
            labels={"figure": "Stages"},
            caption="../report/collapse-stages.rst",
        ),
        departures=report(
            "results/figures/collapse-departures.svg",
            category="7. Collapse",
            labels={"figure": "What leaves the control first"},
            caption="../report/collapse-departures.rst",
        ),
        samples=report(
            "results/figures/collapse-samples.html",
            category="7. Collapse",
            labels={"figure": "Texts side by side"},
            caption="../report/collapse-samples.rst",
        ),
    log:
        "logs/summarise_collapse/all.log",
    benchmark:
        "logs/summarise_collapse/all.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        generations=[[arm, seed, generation] for arm, seed, generation in CHAIN],
        arms={arm: config["collapse"]["arms"][arm] for arm in ARMS},
        resamples=lookup(within=config, dpath="collapse/resamples"),
        code=code_of("summarise_collapse"),
    script:
        "../scripts/summarise_collapse.py"


rule upload_collapse:
    """Upload models and tables to a repository of the hub; no other rule needs what it writes."""
    input:
        models=[generation_folder(*one) for one in UPLOADED],
        tables=[
            rules.summarise_collapse.output.table,
            rules.summarise_collapse.output.stages,
            rules.summarise_collapse.output.tests,
        ],
    output:
        done="results/collapse/upload.json",
    log:
        "logs/upload_collapse/all.log",
    benchmark:
        "logs/upload_collapse/all.benchmark.jsonl"
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
        arms={arm: config["collapse"]["arms"][arm] for arm in ARMS},
        code=code_of("upload_collapse"),
    script:
        "../scripts/upload_collapse.py"


rule collapse:
    """What models lose that learn from their own text."""
    input:
        rules.summarise_collapse.output if ARMS else [],
        rules.upload_collapse.output if ARMS and UPLOAD else [],
