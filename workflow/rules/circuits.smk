CIRCUITS = for_all_models(
    "results/circuits/{model}/seed-{seed}", only=models_with("circuits")
)


# One file for each relation and method, as MIB reads them.
CIRCUIT_FILES = [
    f"results/circuits/{model}/seed-{seed}/{relation}.{method}.json"
    for model in models_with("circuits")
    for seed in config["models"][model]["seeds"]
    for relation in config["models"][model]["circuits"]["relations"]
    for method in config["models"][model]["circuits"]["methods"]
]


rule discover_circuits:
    """Discover the circuits of relations on some subjects and validate them on others."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
        saes=saes_of_hypotheses,
        known=known_circuits_of_model,
    output:
        table="results/circuits/{model}/seed-{seed}/evaluation.parquet",
        hypotheses="results/circuits/{model}/seed-{seed}/hypotheses.parquet",
        heads="results/circuits/{model}/seed-{seed}/heads.parquet",
        circuits="results/circuits/{model}/seed-{seed}/circuits.json",
    log:
        logs("discover_circuits/{model}/seed-{seed}"),
    benchmark:
        benchmarks("discover_circuits/{model}/seed-{seed}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        circuits=of_model("circuits"),
        hypotheses=hypotheses_of_model,
        resamples=config["run"]["resamples"],
        batch_tokens=of_model("batch_tokens"),
        code=code_of("discover_circuits"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/discover_circuits.py"


rule export_circuit:
    """Write one circuit as a file in MIB's format."""
    input:
        circuits="results/circuits/{model}/seed-{seed}/circuits.json",
    output:
        circuit="results/circuits/{model}/seed-{seed}/{relation}.{method}.json",
    log:
        logs("export_circuit/{model}/seed-{seed}/{relation}.{method}"),
    benchmark:
        benchmarks("export_circuit/{model}/seed-{seed}/{relation}.{method}")
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        code=code_of("export_circuit"),
    script:
        "../scripts/export_circuit.py"


rule summarise_circuits:
    """Join the results of all circuits and plot them."""
    input:
        tables=expand("{folder}/evaluation.parquet", folder=CIRCUITS),
        circuits=CIRCUIT_FILES,
        hypotheses=expand("{folder}/hypotheses.parquet", folder=CIRCUITS),
        heads=expand("{folder}/heads.parquet", folder=CIRCUITS),
    output:
        table="results/tables/circuits.csv",
        hypotheses="results/tables/hypotheses.csv",
        heads="results/tables/heads.csv",
        heads_figure=report(
            "results/figures/circuits-heads.svg",
            category="4. Location",
            labels={"figure": "Direct logit attribution of heads"},
            caption="../report/circuits-heads.rst",
        ),
        hypotheses_figure=report(
            "results/figures/circuits-hypotheses.svg",
            category="4. Location",
            labels={"figure": "Hypotheses about components"},
            caption="../report/circuits-hypotheses.rst",
        ),
        faithfulness=report(
            "results/figures/circuits-faithfulness.svg",
            category="4. Location",
            labels={"figure": "Circuits: faithfulness and controls"},
            caption="../report/circuits-faithfulness.rst",
        ),
        relations=report(
            "results/figures/circuits-relations.svg",
            category="4. Location",
            labels={"figure": "Circuits: transfer between relations"},
            caption="../report/circuits-relations.rst",
        ),
        training=report(
            "results/figures/circuits-training.svg",
            category="4. Location",
            labels={"figure": "Circuits over training"},
            caption="../report/circuits-training.rst",
        ),
    log:
        logs("summarise_circuits/all"),
    benchmark:
        benchmarks("summarise_circuits/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code_of("summarise_circuits"),
    script:
        "../scripts/summarise_circuits.py"


rule circuits:
    """Where facts are in models."""
    input:
        rules.summarise_tracing.output if TRACES else [],
        rules.summarise_circuits.output if CIRCUITS else [],
        rules.saes.input,
        rules.graphs.input,
