def encoder_of_ranker(wildcards):
    source = config["rankers"][wildcards.ranker]["source"]
    return source.get("path") or f"results/downloads/encoders/{wildcards.ranker}"


def corpus_to_rank(wildcards):
    return factlife_config.influence.ranked_corpus(settings, wildcards.model)


def documents_to_rank(wildcards):
    return f"results/corpora/{corpus_to_rank(wildcards)}/documents.parquet"


def scores_of_ranker(wildcards):
    """Scores of the model's first seed, since retrained models belong to no seed."""
    seed = config["models"][wildcards.model]["seeds"][0]
    return expand(SCORES, **wildcards, seed=seed, corpus=corpus_to_rank(wildcards))


def scores_of_model(wildcards):
    return expand(
        SCORES,
        **wildcards,
        corpus=corpus_to_rank(wildcards),
        ranker=config["models"][wildcards.model]["influence"]["rankers"],
    )


def retrained_models_of(wildcards):
    """Files of all models retrained without some documents."""
    if not (
        retrained := config["models"][wildcards.model]["influence"]["retrained_models"]
    ):
        return []
    parts = [f"shard-{shard}" for shard in range(retrained["shards"])]
    parts += [
        f"without-top-k-{ranker}"
        for ranker in (retrained["top_k_removal"] or {}).get("rankers", [])
    ]
    return [
        f"results/influence/{wildcards.model}/retrained/{part}.parquet"
        for part in parts
    ]


def tail_patch_of_model(wildcards):
    if not config["models"][wildcards.model]["influence"]["tail_patch"]:
        return []
    return expand(
        "results/influence/{model}/seed-{seed}.tail-patch.parquet", **wildcards
    )
