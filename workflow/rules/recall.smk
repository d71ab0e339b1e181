rule ask_model:
    """Ask every checkpoint of a model every probe of its world."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
    output:
        recall="results/recall/{model}/seed-{seed}.parquet",
    log:
        "logs/ask_model/{model}/seed-{seed}.log",
    benchmark:
        "logs/ask_model/{model}/seed-{seed}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        batch_tokens=lookup(within=config, dpath="recall/batch_tokens"),
        code=digest("recall.score", "models.load"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/ask_model.py"


rule summarise_recall:
    """Summarise recall with intervals over subjects."""
    input:
        recall=for_all_models("results/recall/{model}/seed-{seed}.parquet"),
    output:
        table="results/tables/recall.csv",
    log:
        "logs/summarise_recall/all.log",
    benchmark:
        "logs/summarise_recall/all.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        resamples=lookup(within=config, dpath="recall/resamples"),
        code=digest("recall.summary", "stats"),
    script:
        "../scripts/summarise_recall.py"


rule recall:
    """What models recall, at every checkpoint."""
    input:
        "results/tables/recall.csv",
