GENERATIONS = [generation_folder(*one) for one in CHAIN]


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
        code=digest(
            "collapse.generation",
            "collapse.sample",
            "collapse.mixing",
            "collapse.facts",
            "collapse.diversity",
            "collapse.formats",
            "models.train",
            "models.optim",
            "models.store",
            "models.load",
            "recall.score",
            "recall.perplexity",
        ),
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
        code=digest(
            "collapse.__init__",
            "collapse.summary",
            "collapse.analysis",
            "collapse.figures",
            "collapse.page",
            "figures",
            "stats",
        ),
    script:
        "../scripts/summarise_collapse.py"


rule collapse:
    """What models lose that learn from their own text."""
    input:
        rules.summarise_collapse.output if ARMS else [],
