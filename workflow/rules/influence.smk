RANKERS_BY_BACKEND = {
    backend: [
        name
        for name, ranker in settings.rankers.items()
        if factlife_config.influence.backend_of(ranker) == backend
    ]
    for backend in factlife_config.influence.BACKENDS
}
SCORES = "results/influence/{model}/seed-{seed}/{corpus}.{ranker}.parquet"
RANKED = [
    model
    for model in models_with("influence")
    if config["models"][model]["influence"]["rankers"]
]


# The figure of retrained models is drawn if there are any.
DRAW_RETRAINING = any(
    config["models"][model]["influence"][section]
    for model in RANKED
    for section in ("retrained_models", "tail_patch")
)
SWEEPS = {
    name: sweep
    for name, sweep in config["influence"]["sweeps"].items()
    if any(point["model"] in RANKED for point in sweep["points"])
}


rule rank_lexical:
    """Rank training documents by word overlap."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
    output:
        scores=SCORES,
    log:
        logs("rank_lexical/{model}/seed-{seed}/{corpus}.{ranker}"),
    benchmark:
        benchmarks("rank_lexical/{model}/seed-{seed}/{corpus}.{ranker}")
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_BACKEND["lexical"]),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        ranker=lambda wildcards: config["rankers"][wildcards.ranker],
        influence=of_model("influence"),
        code=code_of("rank_lexical", "rankers", "ranker"),
    script:
        "../scripts/rank_lexical.py"


rule download_encoder:
    """Download a pinned encoder from the hub, since compute nodes have no internet access."""
    output:
        folder=directory("results/downloads/encoders/{ranker}"),
    log:
        logs("download_encoder/{ranker}"),
    benchmark:
        benchmarks("download_encoder/{ranker}")
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_BACKEND["embedding"]),
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        source=lambda wildcards: config["rankers"][wildcards.ranker]["source"],
    script:
        "../scripts/download_model.py"


rule rank_by_embedding:
    """Rank training documents by sentence embeddings."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
        encoder=encoder_of_ranker,
    output:
        scores=SCORES,
    log:
        logs("rank_by_embedding/{model}/seed-{seed}/{corpus}.{ranker}"),
    benchmark:
        benchmarks("rank_by_embedding/{model}/seed-{seed}/{corpus}.{ranker}")
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_BACKEND["embedding"]),
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=gpus_of_model,
    params:
        ranker=lambda wildcards: config["rankers"][wildcards.ranker],
        influence=of_model("influence"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("rank_by_embedding"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/rank_by_embedding.py"


rule rank_by_model:
    """Rank training documents by hidden states or gradients of the model."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
        model="results/models/{model}/seed-{seed}",
    output:
        scores=SCORES,
    log:
        logs("rank_by_model/{model}/seed-{seed}/{corpus}.{ranker}"),
    benchmark:
        benchmarks("rank_by_model/{model}/seed-{seed}/{corpus}.{ranker}")
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_BACKEND["model"]),
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        ranker=lambda wildcards: config["rankers"][wildcards.ranker],
        influence=of_model("influence"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("rank_by_model", "rankers", "ranker"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/rank_by_model.py"


rule rank_with_kronfluence:
    """Rank training documents with Kronfluence."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
        model="results/models/{model}/seed-{seed}",
    output:
        scores=SCORES,
    log:
        logs("rank_with_kronfluence/{model}/seed-{seed}/{corpus}.{ranker}"),
    benchmark:
        benchmarks("rank_with_kronfluence/{model}/seed-{seed}/{corpus}.{ranker}")
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_BACKEND["kronfluence"]),
    conda:
        "../envs/kronfluence.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        ranker=lambda wildcards: config["rankers"][wildcards.ranker],
        influence=of_model("influence"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("rank_with_kronfluence"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/rank_with_kronfluence.py"


rule rank_with_bergson:
    """Rank training documents with Bergson."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
        model="results/models/{model}/seed-{seed}",
    output:
        scores=SCORES,
    log:
        logs("rank_with_bergson/{model}/seed-{seed}/{corpus}.{ranker}"),
    benchmark:
        benchmarks("rank_with_bergson/{model}/seed-{seed}/{corpus}.{ranker}")
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_BACKEND["bergson"]),
    conda:
        "../envs/bergson.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        ranker=lambda wildcards: config["rankers"][wildcards.ranker],
        influence=of_model("influence"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("rank_with_bergson"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/rank_with_bergson.py"


rule retrain_on_subset:
    """Retrain a model on one shard of the document subsets. All rankers share the retrained models."""
    input:
        unpack(inputs_of_training),
        unpack(world_of_model),
        documents=documents_to_rank,
    output:
        losses="results/influence/{model}/retrained/shard-{shard}.parquet",
    log:
        logs("retrain_on_subset/{model}/shard-{shard}"),
    benchmark:
        benchmarks("retrain_on_subset/{model}/shard-{shard}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        source=of_model("source"),
        training=of_model("training"),
        influence=of_model("influence"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("retrain_on_subset"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/retrain_on_subset.py"


rule retrain_without_top_k:
    """Retrain a model without the top documents of a ranker."""
    input:
        unpack(inputs_of_training),
        unpack(world_of_model),
        documents=documents_to_rank,
        scores=scores_of_ranker,
    output:
        losses="results/influence/{model}/retrained/without-top-k-{ranker}.parquet",
    log:
        logs("retrain_without_top_k/{model}/{ranker}"),
    benchmark:
        benchmarks("retrain_without_top_k/{model}/{ranker}")
    wildcard_constraints:
        ranker=one_of(config["rankers"]),
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        source=of_model("source"),
        training=of_model("training"),
        influence=of_model("influence"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("retrain_without_top_k"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/retrain_without_top_k.py"


rule tail_patch:
    """Train a model for one more step on each top document of every ranker."""
    input:
        unpack(world_of_model),
        documents=documents_to_rank,
        model="results/models/{model}/seed-{seed}",
        scores=scores_of_model,
    output:
        gains="results/influence/{model}/seed-{seed}.tail-patch.parquet",
    log:
        logs("tail_patch/{model}/seed-{seed}"),
    benchmark:
        benchmarks("tail_patch/{model}/seed-{seed}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        training=of_model("training"),
        influence=of_model("influence"),
        rankers=of_model("influence", "rankers"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("tail_patch"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/tail_patch.py"


rule evaluate_rankings:
    """Evaluate rankings against the ground truth and against retrained models."""
    input:
        unpack(world_of_model),
        documents=documents_to_rank,
        recall="results/recall/{model}/seed-{seed}.parquet",
        scores=scores_of_model,
        retrained=retrained_models_of,
        tail_patch=tail_patch_of_model,
    output:
        query_metrics="results/influence/{model}/seed-{seed}.query-metrics.parquet",
        retraining_metrics="results/influence/{model}/seed-{seed}.retraining-metrics.parquet",
    log:
        logs("evaluate_rankings/{model}/seed-{seed}"),
    benchmark:
        benchmarks("evaluate_rankings/{model}/seed-{seed}")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        influence=of_model("influence"),
        rankers=of_model("influence", "rankers"),
        world=of_model("world"),
        k=config["influence"]["k"],
        resamples=config["run"]["resamples"],
        code=code_of("evaluate_rankings"),
    script:
        "../scripts/evaluate_rankings.py"


rule summarise_influence:
    """Summarise and plot how well rankers find relevant documents and predict retrained models."""
    input:
        query_metrics=for_all_models(
            "results/influence/{model}/seed-{seed}.query-metrics.parquet", only=RANKED
        ),
        retraining_metrics=for_all_models(
            "results/influence/{model}/seed-{seed}.retraining-metrics.parquet",
            only=RANKED,
        ),
    output:
        table="results/tables/influence.csv",
        retrieval=report(
            "results/figures/influence-retrieval.svg",
            category="6. Influence",
            labels={"figure": "Which ranker finds the documents"},
            caption="../report/influence-retrieval.rst",
        ),
        recall=report(
            "results/figures/influence-recall.svg",
            category="6. Influence",
            labels={"figure": "Recall of relevant documents at k"},
            caption="../report/influence-recall.rst",
        ),
        composition=report(
            "results/figures/influence-composition.svg",
            category="6. Influence",
            labels={"figure": "Subjects of the top documents"},
            caption="../report/influence-composition.rst",
        ),
        agreement=report(
            "results/figures/influence-agreement.svg",
            category="6. Influence",
            labels={"figure": "Agreement between rankers"},
            caption="../report/influence-agreement.rst",
        ),
        retraining=(
            report(
                "results/figures/influence-retraining.svg",
                category="6. Influence",
                labels={"figure": "Which ranker predicts retrained models"},
                caption="../report/influence-retraining.rst",
            )
            if DRAW_RETRAINING
            else []
        ),
        sweeps=(
            report(
                "results/figures/influence-sweeps.svg",
                category="6. Influence",
                labels={"figure": "Metrics as a function of settings"},
                caption="../report/influence-sweeps.rst",
            )
            if SWEEPS
            else []
        ),
    log:
        logs("summarise_influence/all"),
    benchmark:
        benchmarks("summarise_influence/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        resamples=config["run"]["resamples"],
        k=config["influence"]["headline_k"],
        sweeps=SWEEPS,
        code=code_of("summarise_influence"),
    script:
        "../scripts/summarise_influence.py"


rule influence:
    """Find the training documents that taught models their facts."""
    input:
        rules.summarise_influence.output if rules.summarise_influence.input else [],
