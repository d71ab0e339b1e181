rule train_saes:
    """Train sparse autoencoders or transcoders for every layer of a model, measure and describe them."""
    input:
        unpack(inputs_of_saes),
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
    output:
        folder=directory("results/saes/{model}/seed-{seed}/{sae}"),
        quality="results/saes/{model}/seed-{seed}/{sae}.quality.csv",
        features="results/saes/{model}/seed-{seed}/{sae}.features.parquet",
    log:
        "logs/train_saes/{model}/seed-{seed}/{sae}.log",
    benchmark:
        "logs/train_saes/{model}/seed-{seed}/{sae}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        sae=lookup(within=config, dpath="saes/{sae}"),
        code=code_of("train_saes"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/train_saes.py"


rule attribute_facts:
    """Explain a model's facts by attribution graphs, intervene on their features, and write pages to look at them."""
    input:
        unpack(world_of_model),
        unpack(coders_of_graphs),
        model="results/models/{model}/seed-{seed}",
    output:
        folder=report(
            directory("results/graphs/{model}/seed-{seed}"),
            patterns=["{name}.html"],
            category="4. Location",
            subcategory="Attribution graphs",
            labels={"graph": "{name}", "model": "{model}", "seed": "{seed}"},
            caption="../report/graph.rst",
        ),
        scores="results/graphs/{model}/seed-{seed}.scores.parquet",
        interventions="results/graphs/{model}/seed-{seed}.interventions.parquet",
    log:
        "logs/attribute_facts/{model}/seed-{seed}.log",
    benchmark:
        "logs/attribute_facts/{model}/seed-{seed}.benchmark.jsonl"
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
        coders=lookup(within=config, dpath="graphs/models/{model}"),
        code=code_of("attribute_facts"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/attribute_facts.py"


rule summarise_graphs:
    """Put what SAEs and attribution graphs are worth into tables, and draw them."""
    input:
        saes=for_all_saes("results/saes/{model}/seed-{seed}/{sae}.quality.csv"),
        scores=for_all_graphs("results/graphs/{model}/seed-{seed}.scores.parquet"),
        interventions=for_all_graphs(
            "results/graphs/{model}/seed-{seed}.interventions.parquet"
        ),
    output:
        saes="results/tables/sae.csv",
        graphs="results/tables/graphs.csv",
        interventions=report(
            "results/figures/graphs-interventions.svg",
            category="4. Location",
            labels={"figure": "Attribution graphs: predicted and measured"},
            caption="../report/graphs-interventions.rst",
        ),
        quality=report(
            "results/figures/sae-quality.svg",
            category="4. Location",
            labels={"figure": "Sparse autoencoders and transcoders"},
            caption="../report/sae-quality.rst",
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
    """Sparse autoencoders, transcoders and attribution graphs."""
    input:
        rules.summarise_graphs.output if SAES_ASKED else [],
