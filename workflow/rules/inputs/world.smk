def inputs_of_world(wildcards):
    world = config["worlds"][wildcards.world]
    named = ("facts", "templates", "documents", "queries")
    return {key: world[key] for key in named if key in world}


def inputs_of_world_plot(wildcards):
    """A world's tables and, if a model of this run is trained on documents about it, these documents."""
    corpora = [
        config["models"][model]["training"]["corpus"]
        for model in config["run"]["models"]
        if model in TRAINED
    ]
    documents = [
        f"results/corpora/{corpus}/documents.parquet"
        for corpus in corpora
        if config["corpora"][corpus].get("world") == wildcards.world
    ]
    return world_tables(wildcards.world) | (
        {"documents": documents[0]} if documents else {}
    )
