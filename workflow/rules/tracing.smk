TRACES = for_all_models(
    "results/tracing/{model}/seed-{seed}.parquet", only=models_with("tracing")
)


rule trace_model:
    """Trace facts: restore one state of a corrupted run at a time."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
    output:
        trace="results/tracing/{model}/seed-{seed}.parquet",
    log:
        logs("trace_model/{model}/seed-{seed}"),
    benchmark:
        benchmarks("trace_model/{model}/seed-{seed}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        tracing=of_model("tracing"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("trace_model"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/trace_model.py"


rule summarise_tracing:
    """Summarise and plot the indirect effects."""
    input:
        traces=TRACES,
    output:
        table="results/tables/tracing.csv",
        heat_map=report(
            "results/figures/tracing-heat-map.svg",
            category="4. Location",
            labels={"figure": "Causal tracing: tokens and layers"},
            caption="../report/tracing-heat-map.rst",
        ),
        curves=report(
            "results/figures/tracing-curves.svg",
            category="4. Location",
            labels={"figure": "Causal tracing: corruptions and scales"},
            caption="../report/tracing-curves.rst",
        ),
    log:
        logs("summarise_tracing/all"),
    benchmark:
        benchmarks("summarise_tracing/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        resamples=config["run"]["resamples"],
        code=code_of("summarise_tracing"),
    script:
        "../scripts/summarise_tracing.py"
