EXPERIMENTS = {
    name: config["experiments"][name] for name in config["run"]["experiments"]
}
MODELS_OF_EXPERIMENTS = sorted(
    {
        (model, seed)
        for experiment in EXPERIMENTS.values()
        for models in experiment["arms"].values()
        for model in models
        for seed in experiment["seeds"]
    }
)
WORLDS_OF_EXPERIMENTS = {
    model: config["models"][model]["world"] for model, _ in MODELS_OF_EXPERIMENTS
}


rule summarise_dynamics:
    """Compare the arms of all experiments with their controls, and plot every experiment."""
    input:
        recall=[
            f"results/recall/{model}/seed-{seed}.parquet"
            for model, seed in MODELS_OF_EXPERIMENTS
        ],
        entities=expand(
            "results/worlds/{world}/entities.parquet",
            world=sorted({*WORLDS_OF_EXPERIMENTS.values()}),
        ),
    output:
        table="results/tables/dynamics.csv",
        figures=[
            report(
                f"results/figures/dynamics-{name}.svg",
                category="3. Dynamics",
                labels={"experiment": name},
                caption=f"../report/dynamics-{experiment['comparison']}.rst",
            )
            for name, experiment in EXPERIMENTS.items()
        ],
    log:
        logs("summarise_dynamics/all"),
    benchmark:
        benchmarks("summarise_dynamics/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        experiments=EXPERIMENTS,
        resamples=config["run"]["resamples"],
        worlds=WORLDS_OF_EXPERIMENTS,
        code=code_of("summarise_dynamics"),
    script:
        "../scripts/summarise_dynamics.py"


rule dynamics:
    """Experiments on how models learn, generalise and forget facts."""
    input:
        rules.summarise_dynamics.output if EXPERIMENTS else [],
