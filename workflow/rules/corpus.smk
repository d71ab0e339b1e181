UNANSWERED = factlife_config.written.incomplete(settings)

# Only then is a key needed: an undefined variable would stop every run.
if UNANSWERED:
    if not os.environ.get(factlife_config.written.VARIABLE):
        raise WorkflowError(
            f"corpora.{UNANSWERED[0]}: not all answers are in {config['corpora'][UNANSWERED[0]]['answers']}, and "
            f"{factlife_config.written.VARIABLE} is not set; set it, or bring the whole file"
        )

    envvars:
        factlife_config.written.VARIABLE,


rule download_dataset:
    """Fetch a pinned dataset from the hub; compute nodes have no internet."""
    output:
        rows="results/downloads/corpora/{corpus}.parquet",
    log:
        "logs/download_dataset/{corpus}.log",
    benchmark:
        "logs/download_dataset/{corpus}.benchmark.jsonl"
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        corpus=lookup(within=config, dpath="corpora/{corpus}"),
        code=code_of("download_dataset"),
    script:
        "../scripts/download_dataset.py"


rule make_corpus:
    """Render documents, each with the ids of the facts that it states."""
    input:
        unpack(inputs_of_corpus),
    output:
        documents="results/corpora/{corpus}/documents.parquet",
    log:
        "logs/make_corpus/{corpus}.log",
    benchmark:
        "logs/make_corpus/{corpus}.benchmark.jsonl"
    wildcard_constraints:
        corpus=one_of([name for name in config["corpora"] if name not in WRITTEN]),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        corpus=lookup(within=config, dpath="corpora/{corpus}"),
        code=code_of("make_corpus"),
    script:
        "../scripts/make_corpus.py"


rule write_corpus:
    """Let a model of the config write documents, and keep those that state what they must and nothing else."""
    input:
        unpack(inputs_of_written),
    output:
        documents="results/corpora/{corpus}/documents.parquet",
        verdicts="results/corpora/{corpus}/verdicts.csv",
    log:
        "logs/write_corpus/{corpus}.log",
    benchmark:
        "logs/write_corpus/{corpus}.benchmark.jsonl"
    wildcard_constraints:
        corpus=one_of(
            [name for name, corpus in WRITTEN.items() if corpus.writer.kind == "model"]
        ),
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=600,
        gpu=gpus_of_writer,
    params:
        corpus=lookup(within=config, dpath="corpora/{corpus}"),
        mark=mark_of_written,
        code=code_of("write_corpus"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/write_corpus.py"


use rule write_corpus as ask_for_corpus with:
    log:
        "logs/ask_for_corpus/{corpus}.log",
    benchmark:
        "logs/ask_for_corpus/{corpus}.benchmark.jsonl"
    wildcard_constraints:
        corpus=one_of(
            [
                name
                for name, corpus in WRITTEN.items()
                if corpus.writer.kind == "anthropic"
            ]
        ),
    # Compute nodes have no internet.
    localrule: True
    resources:
        mem_mb=4000,
        runtime=600,


rule make_tokenizer:
    """Learn a tokenizer from a corpus and from all that is asked about its world."""
    input:
        unpack(inputs_of_tokenizer),
    output:
        folder=directory("results/tokenizers/{tokenizer}"),
    log:
        "logs/make_tokenizer/{tokenizer}.log",
    benchmark:
        "logs/make_tokenizer/{tokenizer}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        tokenizer=lookup(within=config, dpath="tokenizers/{tokenizer}"),
        code=code_of("make_tokenizer"),
    script:
        "../scripts/make_tokenizer.py"


rule tokenize_corpus:
    """Cut the documents of a corpus into tokens."""
    input:
        documents="results/corpora/{corpus}/documents.parquet",
        tokenizer=tokenizer_folder,
    output:
        folder=directory("results/tokens/{corpus}.{tokenizer}"),
    log:
        "logs/tokenize_corpus/{corpus}.{tokenizer}.log",
    benchmark:
        "logs/tokenize_corpus/{corpus}.{tokenizer}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=code_of("tokenize_corpus"),
    script:
        "../scripts/tokenize_corpus.py"
