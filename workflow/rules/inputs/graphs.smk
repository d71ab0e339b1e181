def transcoders_of_model(wildcards):
    """The transcoders that replace a model's MLPs, and the descriptions of their features."""
    transcoder = config["models"][wildcards.model]["graphs"]["transcoder"]
    folder = f"results/saes/{wildcards.model}/seed-{wildcards.seed}/{transcoder}"
    return {"transcoders": folder, "features": f"{folder}.features.parquet"}
