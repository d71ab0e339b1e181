DICTIONARIES = [
    (dictionary, model, seed)
    for model in models_with("saes")
    for dictionary in config["models"][model]["saes"]["dictionaries"]
    for seed in config["models"][model]["seeds"]
]


rule train_saes:
    """Train sparse autoencoders or transcoders on every layer of a model, evaluate them and describe their features."""
    input:
        unpack(text_of_dictionary),
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
    output:
        folder=directory("results/saes/{model}/seed-{seed}/{sae}"),
        quality="results/saes/{model}/seed-{seed}/{sae}.quality.csv",
        features="results/saes/{model}/seed-{seed}/{sae}.features.parquet",
    log:
        logs("train_saes/{model}/seed-{seed}/{sae}"),
    benchmark:
        benchmarks("train_saes/{model}/seed-{seed}/{sae}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        dictionary=lambda wildcards: config["dictionaries"][wildcards.sae],
        resamples=config["run"]["resamples"],
        code=code_of("train_saes"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/train_saes.py"


rule summarise_dictionaries:
    """Collect the quality of all sparse autoencoders and transcoders in one table, and plot it."""
    input:
        quality=for_all_dictionaries(
            "results/saes/{model}/seed-{seed}/{sae}.quality.csv"
        ),
    output:
        table="results/tables/dictionaries.csv",
        figure=report(
            "results/figures/dictionaries-quality.svg",
            category="4. Location",
            labels={"figure": "Sparse autoencoders and transcoders"},
            caption="../report/dictionaries-quality.rst",
        ),
    log:
        logs("summarise_dictionaries/all"),
    benchmark:
        benchmarks("summarise_dictionaries/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code_of("summarise_dictionaries"),
    script:
        "../scripts/summarise_dictionaries.py"


rule saes:
    """Sparse autoencoders and transcoders."""
    input:
        rules.summarise_dictionaries.output if DICTIONARIES else [],
