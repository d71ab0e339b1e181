DICTIONARIES = [
    (dictionary, model, seed)
    for dictionary, dictionary_settings in config["dictionaries"].items()
    for model in dictionary_settings["models"]
    if model in config["run"]["models"]
    for seed in config["models"][model]["seeds"]
]


def for_all_dictionaries(pattern):
    """The pattern for every dictionary of the models to run, and each of their seeds."""
    return [
        pattern.format(sae=dictionary, model=model, seed=seed)
        for dictionary, model, seed in DICTIONARIES
    ]


def text_of_dictionary(wildcards):
    training = config["models"][wildcards.model]["training"]
    corpus = config["dictionaries"][wildcards.sae]["corpus"] or training["corpus"]
    return {"documents": f"results/corpora/{corpus}/documents.parquet"}


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
        dictionary=lookup(within=config, dpath="dictionaries/{sae}"),
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
        "logs/summarise_dictionaries/all.log",
    benchmark:
        "logs/summarise_dictionaries/all.benchmark.jsonl"
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
