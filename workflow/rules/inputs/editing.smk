def files_of_requests(wildcards):
    """The file of requests that do not come from the world, and CounterFact's attribute snippets."""
    requests = config["models"][wildcards.model]["editing"]["requests"]
    files = {
        key: requests[key] for key in ("path", "attribute_snippets") if requests[key]
    }
    if requests["dataset"]:
        files["path"] = f"results/downloads/requests/{wildcards.model}.parquet"
    return files


def recall_of_requests(wildcards):
    """The model's recall, if only known facts are edited."""
    requests = config["models"][wildcards.model]["editing"]["requests"]
    recall = f"results/recall/{wildcards.model}/seed-{wildcards.seed}.parquet"
    return {"recall": recall} if requests["known_only"] else {}


def world_of_requests(wildcards):
    """Tables of the world whose facts are edited; none if requests come from a file."""
    requests = config["models"][wildcards.model]["editing"]["requests"]
    return world_of_model(wildcards) if requests["kind"] == "world" else {}


def inputs_of_covariance(wildcards):
    """The corpus, and the requests if documents about their subjects are left out."""
    covariance = config["covariances"][wildcards.covariance]
    tokenizer = config["models"][wildcards.model]["tokenizer"] or wildcards.model
    requests = (
        f"results/requests/{wildcards.model}/seed-{wildcards.seed}/requests.parquet"
    )
    return {"tokens": f"results/tokens/{covariance['corpus']}.{tokenizer}"} | (
        {} if covariance["include_edited_subjects"] else {"requests": requests}
    )


def editor_of(wildcards):
    """Settings of a job's editor; without an `editor` wildcard, that of the model's site sweep."""
    swept = config["models"][wildcards.model]["editing"]["site_sweep"]["editor"]
    return config["editors"].get(wildcards.get("editor", swept), {})


def contexts_of_edits(wildcards):
    """The corpus of the model's key covariance, from which context templates are sampled."""
    covariance = config["models"][wildcards.model]["editing"]["covariance"]
    corpus = config["covariances"][covariance]["corpus"]
    return {"documents": f"results/corpora/{corpus}/documents.parquet"}


def inputs_of_target_vectors(wildcards):
    """The corpus of context templates, and the table of edit sites if it chooses the editor's site."""
    in_config = editor_of(wildcards)["choose_by"] == "config"
    sites = f"results/edit_sites/{wildcards.model}/seed-{wildcards.seed}.csv"
    return contexts_of_edits(wildcards) | ({} if in_config else {"edit_sites": sites})


def inputs_of_edits(wildcards):
    """The key covariance, the corpus of context templates, and the inputs of the editor's own."""
    editor, run = editor_of(wildcards), f"{wildcards.model}/seed-{wildcards.seed}"
    edited = config["models"][wildcards.model]["editing"]
    covariance = editor.get("covariance") or edited["covariance"]
    inputs = contexts_of_edits(wildcards)
    inputs["covariance"] = f"results/covariance/{run}/{covariance}.safetensors"
    if "editor" not in wildcards.keys():
        traced = config["models"][wildcards.model]["tracing"]
        return inputs | ({"trace": f"results/tracing/{run}.parquet"} if traced else {})
    if corpus := edited["evaluation"]["perplexity_corpus"]:
        inputs["text"] = f"results/corpora/{corpus}/documents.parquet"
    if "fact_token" in editor:
        inputs |= inputs_of_target_vectors(wildcards)
    if network := editor.get("hypernetwork"):
        inputs["hypernetwork"] = f"results/hypernetworks/{run}/{network}.safetensors"
    source = factlife_config.editing.target_vector_source(
        settings, wildcards.model, wildcards.editor
    )
    if source:
        shards = range(edited["target_vectors"]["shards"])
        inputs["target_vectors"] = expand(
            f"results/target_vectors/{run}/{source}/shard-{{shard}}.safetensors",
            shard=shards,
        )
    return inputs


def site_of_editor(wildcards):
    """The part of an editor's settings that says where it edits."""
    editor = config["editors"][wildcards.editor]
    return {key: editor[key] for key in ("fact_token", "layers", "choose_by", "spread")}


def for_all_editors(pattern):
    return [
        pattern.format(model=model, seed=seed, editor=editor)
        for model, edited in EDITED.items()
        for seed in config["models"][model]["seeds"]
        for editor in edited["editors"]
    ]


def for_editors_with_tasks(pattern):
    """The pattern for every editor of a model with downstream tasks, except those that roll back their edits."""
    return [
        pattern.format(model=model, seed=seed, editor=editor)
        for model, edited in EDITED.items()
        for seed in config["models"][model]["seeds"]
        for editor in edited["editors"]
        if edited["evaluation"]["tasks"]
        and config["editors"][editor]["schedule"]["kind"] != "single"
    ]


def tokens_of_edits(wildcards):
    """The tokenized corpus of the model's key covariance, on which edited models are fine-tuned."""
    covariance = config["models"][wildcards.model]["editing"]["covariance"]
    corpus = config["covariances"][covariance]["corpus"]
    return f"results/tokens/{corpus}.{config['models'][wildcards.model]['tokenizer'] or wildcards.model}"
