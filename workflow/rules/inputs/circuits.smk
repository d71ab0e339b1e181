def known_circuits_of_model(wildcards):
    return [*config["models"][wildcards.model]["circuits"]["known_circuits"].values()]


def hypotheses_of_model(wildcards):
    names = config["models"][wildcards.model]["circuits"]["hypotheses"]
    return {name: config["hypotheses"][name] for name in names}


def saes_of_hypotheses(wildcards):
    """Folders of the autoencoders whose features the model's hypotheses name."""
    names = [
        hypothesis["component"].split("/")[0]
        for hypothesis in hypotheses_of_model(wildcards).values()
        if "layer-" in hypothesis["component"]
    ]
    return expand(
        "results/saes/{model}/seed-{seed}/{sae}",
        sae=sorted(set(names)),
        model=wildcards.model,
        seed=wildcards.seed,
    )
