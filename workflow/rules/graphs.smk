GRAPHS = for_all_models(
    "results/graphs/{model}/seed-{seed}", only=models_with("graphs")
)


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
        logs("build_attribution_graphs/{model}/seed-{seed}"),
    benchmark:
        benchmarks("build_attribution_graphs/{model}/seed-{seed}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        graphs=of_model("graphs"),
        transcoder=of_model("graphs", "transcoder"),
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
        logs("summarise_graphs/all"),
    benchmark:
        benchmarks("summarise_graphs/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        resamples=config["run"]["resamples"],
        code=code_of("summarise_graphs"),
    script:
        "../scripts/summarise_graphs.py"


rule graphs:
    """Attribution graphs."""
    input:
        rules.summarise_graphs.output if GRAPHS else [],
