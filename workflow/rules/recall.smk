rule evaluate_recall:
    """Score all probes of a model's world at all checkpoints."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
    output:
        recall="results/recall/{model}/seed-{seed}.parquet",
    log:
        logs("evaluate_recall/{model}/seed-{seed}"),
    benchmark:
        benchmarks("evaluate_recall/{model}/seed-{seed}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        batch_tokens=of_model("batch_tokens"),
        code=code_of("evaluate_recall"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/evaluate_recall.py"


rule summarise_recall:
    """Summarise and plot recall, with intervals over subjects."""
    input:
        recall=for_all_models(
            "results/recall/{model}/seed-{seed}.parquet", only=models_with_world()
        ),
        curves=for_all_models(
            "results/models/{model}/seed-{seed}.training.csv", only=TRAINED
        ),
    output:
        table="results/tables/recall.csv",
        kinds=report(
            "results/figures/recall-kinds.svg",
            category="2. Recall",
            labels={"figure": "Recall by kind of probe"},
            caption="../report/recall-kinds.rst",
        ),
        relations=report(
            "results/figures/recall-relations.svg",
            category="2. Recall",
            labels={"figure": "Recall by relation"},
            caption="../report/recall-relations.rst",
        ),
        models=report(
            "results/figures/recall-models.svg",
            category="2. Recall",
            labels={"figure": "Recall by model"},
            caption="../report/recall-models.rst",
        ),
        final=report(
            "results/figures/recall-final.svg",
            category="2. Recall",
            labels={"figure": "Recall after training"},
            caption="../report/recall-final.rst",
        ),
        confidence=report(
            "results/figures/recall-confidence.svg",
            category="2. Recall",
            labels={"figure": "Confidence about unseen people"},
            caption="../report/recall-confidence.rst",
        ),
        training=report(
            "results/figures/recall-training.svg",
            category="2. Recall",
            labels={"figure": "Training loss"},
            caption="../report/recall-training.rst",
        ),
        explorer=report(
            "results/figures/recall-explorer.html",
            category="2. Recall",
            labels={"figure": "All metrics, interactive"},
            caption="../report/recall-explorer.rst",
        ),
    log:
        logs("summarise_recall/all"),
    benchmark:
        benchmarks("summarise_recall/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        resamples=config["run"]["resamples"],
        code=code_of("summarise_recall"),
    script:
        "../scripts/summarise_recall.py"


rule recall:
    """Recall of all models at all checkpoints."""
    input:
        rules.summarise_recall.output if models_with_world() else [],
        expand("results/figures/world-{world}.html", world=WORLDS_OF_RUN),
