def for_all_dictionaries(pattern):
    """The pattern for every dictionary of the models to run, and each of their seeds."""
    return [
        pattern.format(sae=dictionary, model=model, seed=seed)
        for dictionary, model, seed in DICTIONARIES
    ]


def text_of_dictionary(wildcards):
    corpus = factlife_config.dictionaries.dictionary_corpus(
        settings, wildcards.model, wildcards.sae
    )
    return {"documents": f"results/corpora/{corpus}/documents.parquet"}
