GRAPHS = for_all_models(
    "results/graphs/{model}/seed-{seed}", only=config["graphs"]["models"]
)


def transcoders_of_model(wildcards):
    """The transcoders that replace a model's MLPs, and the descriptions of their features."""
    transcoder = config["graphs"]["models"][wildcards.model]
    folder = f"results/saes/{wildcards.model}/seed-{wildcards.seed}/{transcoder}"
    return {"transcoders": folder, "features": f"{folder}.features.parquet"}


rule build_attribution_graphs:
    """Build attribution graphs of a model's facts, intervene on their features, and write a page for some of them."""
    input:
        unpack(world_of_model),
        unpack(transcoders_of_model),
        model="results/models/{model}/seed-{seed}",
    output:
        folder=report(
            directory("results/graphs/{model}/seed-{seed}"),
            patterns=["{name}.html"],
            category="4. Location",
            subcategory="Attribution graphs",
            labels={"graph": "{name}", "model": "{model}", "seed": "{seed}"},
            caption="../report/attribution-graph.rst",
        ),
        scores="results/graphs/{model}/seed-{seed}.scores.parquet",
        interventions="results/graphs/{model}/seed-{seed}.interventions.parquet",
    log:
        "logs/build_attribution_graphs/{model}/seed-{seed}.log",
    benchmark:
        "logs/build_attribution_graphs/{model}/seed-{seed}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        graphs={
            key: value
            for key, value in config["graphs"].items()
            if key not in ("models", "resamples")
        },
        transcoder=lookup(within=config, dpath="graphs/models/{model}"),
        code=code_of("build_attribution_graphs"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/build_attribution_graphs.py"


rule summarise_graphs:
    """Summarise the scores of attribution graphs and their predictions of interventions, and plot the predictions."""
    input:
        scores=expand("{graph}.scores.parquet", graph=GRAPHS),
        interventions=expand("{graph}.interventions.parquet", graph=GRAPHS),
    output:
        table="results/tables/graphs.csv",
        figure=report(
            "results/figures/graphs-interventions.svg",
            category="4. Location",
            labels={"figure": "Attribution graphs: predicted and measured"},
            caption="../report/graphs-interventions.rst",
        ),
    log:
        "logs/summarise_graphs/all.log",
    benchmark:
        "logs/summarise_graphs/all.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        resamples=lookup(within=config, dpath="graphs/resamples"),
        code=code_of("summarise_graphs"),
    script:
        "../scripts/summarise_graphs.py"


rule graphs:
    """Attribution graphs."""
    input:
        rules.summarise_graphs.output if GRAPHS else [],
