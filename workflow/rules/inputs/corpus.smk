def inputs_of_corpus(wildcards):
    corpus = config["corpora"][wildcards.corpus]
    if corpus["kind"] == "benchmark":
        path = config["worlds"][corpus["world"]]["documents"]
        return world_tables(corpus["world"]) | {"path": path}
    if "world" in corpus:
        return world_tables(corpus["world"])
    if corpus.get("dataset"):
        return {"path": f"results/downloads/corpora/{wildcards.corpus}.parquet"}
    return {"path": corpus["path"]} if corpus.get("path") else {}


def inputs_of_written(wildcards):
    corpus = WRITTEN[wildcards.corpus]
    seed = config["models"].get(corpus.writer.model, {}).get("seeds", [0])[0]
    folder = f"results/models/{corpus.writer.model}/seed-{seed}"
    return world_tables(corpus.world) | (
        {"writer": folder} if corpus.writer.kind == "model" else {}
    )


def fingerprint_of_written(wildcards):
    return factlife_config.written.fingerprint(settings, wildcards.corpus)


def gpus_of_writer(wildcards):
    return min(1, config["models"][WRITTEN[wildcards.corpus].writer.model]["gpu"])


def inputs_of_tokenizer(wildcards):
    corpus = config["tokenizers"][wildcards.tokenizer]["corpus"]
    world = config["corpora"][corpus].get("world")
    return {"documents": f"results/corpora/{corpus}/documents.parquet"} | (
        world_tables(world) if world else {}
    )


def tokenizer_folder(wildcards):
    kind = "tokenizers" if wildcards.tokenizer in config["tokenizers"] else "sources"
    return f"results/{kind}/{wildcards.tokenizer}"
