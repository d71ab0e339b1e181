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
        code=digest(
            "circuits.sae",
            "circuits.activations",
            "circuits.training",
            "circuits.quality",
            "circuits.probing",
            "circuits.features",
            "recall.score",
            "models.anatomy",
            "models.load",
        ),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/train_saes.py"


rule summarise_graphs:
    """Put what SAEs are worth into one table, and draw it."""
    input:
        saes=for_all_saes("results/saes/{model}/seed-{seed}/{sae}.quality.csv"),
    output:
        saes="results/tables/sae.csv",
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
        code=digest("circuits.tables", "circuits.sae_figures", "figures"),
    script:
        "../scripts/summarise_graphs.py"


rule graphs:
    """Sparse autoencoders, transcoders and attribution graphs."""
    input:
        rules.summarise_graphs.output if SAES_ASKED else [],
