CIRCUITS = for_all_models(
    "results/circuits/{model}/seed-{seed}/evaluation.parquet",
    only=config["circuits"]["models"],
)


rule discover_circuits:
    """Discover the circuits of relations on some subjects and validate them on others."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
        saes=saes_of_hypotheses,
        known=list(config["circuits"]["known_circuits"].values()),
    output:
        table="results/circuits/{model}/seed-{seed}/evaluation.parquet",
        hypotheses="results/circuits/{model}/seed-{seed}/hypotheses.parquet",
        heads="results/circuits/{model}/seed-{seed}/heads.parquet",
        circuits=expand(
            "results/circuits/{{model}}/seed-{{seed}}/{relation}.{method}.json",
            relation=config["circuits"]["relations"],
            method=config["circuits"]["methods"],
        ),
    log:
        "logs/discover_circuits/{model}/seed-{seed}.log",
    benchmark:
        "logs/discover_circuits/{model}/seed-{seed}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        circuits={
            key: value for key, value in config["circuits"].items() if key != "models"
        },
        hypotheses=hypotheses_of_model,
        code=code_of("discover_circuits"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/discover_circuits.py"


rule summarise_circuits:
    """Join the results of all circuits and plot them."""
    input:
        tables=CIRCUITS,
        circuits=expand(
            "{folder}/{relation}.{method}.json",
            folder=[Path(table).parent for table in CIRCUITS],
            relation=config["circuits"]["relations"],
            method=config["circuits"]["methods"],
        ),
        hypotheses=for_all_models(
            "results/circuits/{model}/seed-{seed}/hypotheses.parquet",
            only=config["circuits"]["models"],
        ),
        heads=for_all_models(
            "results/circuits/{model}/seed-{seed}/heads.parquet",
            only=config["circuits"]["models"],
        ),
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
        "logs/summarise_circuits/all.log",
    benchmark:
        "logs/summarise_circuits/all.benchmark.jsonl"
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
