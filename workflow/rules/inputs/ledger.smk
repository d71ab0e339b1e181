def ledger_artifacts():
    """Paths of the artifacts that the ledger joins, for every model with a world and each of its seeds."""
    return [
        artifacts_of_model(model, seed)
        for model in models_with_world()
        for seed in config["models"][model]["seeds"]
    ]


def artifacts_of_model(model, seed):
    """Paths of all artifacts that describe the facts of one model and seed."""
    run = f"{model}/seed-{seed}"
    paths = {
        "model": model,
        "seed": seed,
        "facts": f"results/worlds/{config['models'][model]['world']}/facts.parquet",
        "recall": f"results/recall/{run}.parquet",
        "model_folder": f"results/models/{run}",
    }
    if model in TRAINED:
        paths["documents"] = (
            "results/corpora/{training[corpus]}/documents.parquet".format(
                **config["models"][model]
            )
        )
    if config["models"][model]["tracing"]:
        paths["tracing"] = f"results/tracing/{run}.parquet"
    if config["models"][model]["circuits"]:
        paths["circuits"] = f"results/circuits/{run}/evaluation.parquet"
    if config["models"][model]["graphs"]:
        paths["graphs"] = f"results/graphs/{run}"
    if model in RANKED:
        paths["influence"] = f"results/influence/{run}.query-metrics.parquet"
        corpus = factlife_config.influence.ranked_corpus(settings, model)
        paths["rankings"] = {
            ranker: SCORES.format(model=model, seed=seed, corpus=corpus, ranker=ranker)
            for ranker in config["models"][model]["influence"]["rankers"]
        }
    if model in EDITED:
        paths["edits"] = [
            f"results/edits/{run}/{editor}" for editor in EDITED[model]["editors"]
        ]
        paths["requests"] = f"results/requests/{run}/requests.parquet"
        if EDITED[model]["site_sweep"]["editor"]:
            paths["edit_sites"] = f"results/edit_sites/{run}.parquet"
        survival_editors = EDITED[model]["survival"]["editors"]
        if survival_editors:
            paths["survival"] = [
                f"results/survival/{run}/{editor}.parquet"
                for editor in survival_editors
            ]
    if arms := ARMS.get(model):
        paths["generations"] = {
            arm: [
                generation_folder(model, arm, seed, generation)
                for generation in range(arm_settings.generations + 1)
            ]
            for arm, arm_settings in arms.items()
        }
    return paths


def paths_of_artifacts(artifacts):
    """All paths of one model's artifacts as a flat list."""
    paths = []
    for key in artifacts.keys() - {"model", "seed"}:
        value = artifacts[key]
        groups = value.values() if isinstance(value, dict) else [value]
        paths += [
            path
            for group in groups
            for path in (group if isinstance(group, list) else [group])
        ]
    return sorted(paths)
