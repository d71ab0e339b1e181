WRITTEN = {
    name: corpus
    for name, corpus in settings.corpora.items()
    if corpus.kind == "written"
}
INCOMPLETE_CORPORA = factlife_config.written.incomplete_corpora(settings)


# Declared only if a key is needed: an undefined variable would stop every run.
if INCOMPLETE_CORPORA:
    if not os.environ.get(factlife_config.written.API_KEY_VARIABLE):
        raise WorkflowError(
            f"corpora.{INCOMPLETE_CORPORA[0]}: not all answers are in {config['corpora'][INCOMPLETE_CORPORA[0]]['answers']}, and "
            f"{factlife_config.written.API_KEY_VARIABLE} is not set; set it or provide the complete file"
        )

    envvars:
        factlife_config.written.API_KEY_VARIABLE,


rule download_dataset:
    """Download a pinned dataset from the hub; compute nodes have no internet access."""
    output:
        rows="results/downloads/corpora/{corpus}.parquet",
    log:
        logs("download_dataset/{corpus}"),
    benchmark:
        benchmarks("download_dataset/{corpus}")
    localrule: True
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        corpus=lambda wildcards: config["corpora"][wildcards.corpus],
        code=code_of("download_dataset"),
    script:
        "../scripts/download_dataset.py"


rule generate_corpus:
    """Render documents, each with the ids of the facts that it states."""
    input:
        unpack(inputs_of_corpus),
    output:
        documents="results/corpora/{corpus}/documents.parquet",
    log:
        logs("generate_corpus/{corpus}"),
    benchmark:
        benchmarks("generate_corpus/{corpus}")
    wildcard_constraints:
        corpus=one_of([name for name in config["corpora"] if name not in WRITTEN]),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        corpus=lambda wildcards: config["corpora"][wildcards.corpus],
        code=code_of("generate_corpus"),
    script:
        "../scripts/generate_corpus.py"


rule generate_written_corpus:
    """Let a model of the config write documents and keep those that pass the check."""
    input:
        unpack(inputs_of_written),
    output:
        documents="results/corpora/{corpus}/documents.parquet",
        verdicts="results/corpora/{corpus}/verdicts.csv",
    log:
        logs("generate_written_corpus/{corpus}"),
    benchmark:
        benchmarks("generate_written_corpus/{corpus}")
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
        corpus=lambda wildcards: config["corpora"][wildcards.corpus],
        fingerprint=fingerprint_of_written,
        code=code_of("generate_written_corpus"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/generate_written_corpus.py"


use rule generate_written_corpus as generate_api_corpus with:
    log:
        logs("generate_api_corpus/{corpus}"),
    benchmark:
        benchmarks("generate_api_corpus/{corpus}")
    wildcard_constraints:
        corpus=one_of(
            [
                name
                for name, corpus in WRITTEN.items()
                if corpus.writer.kind == "anthropic"
            ]
        ),
    # Compute nodes have no internet access.
    localrule: True
    resources:
        mem_mb=4000,
        runtime=600,


rule train_tokenizer:
    """Train a tokenizer on a corpus and on the probes of its world."""
    input:
        unpack(inputs_of_tokenizer),
    output:
        folder=directory("results/tokenizers/{tokenizer}"),
    log:
        logs("train_tokenizer/{tokenizer}"),
    benchmark:
        benchmarks("train_tokenizer/{tokenizer}")
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        tokenizer=lambda wildcards: config["tokenizers"][wildcards.tokenizer],
        code=code_of("train_tokenizer"),
    script:
        "../scripts/train_tokenizer.py"


rule tokenize_corpus:
    """Tokenize the documents of a corpus."""
    input:
        documents="results/corpora/{corpus}/documents.parquet",
        tokenizer=tokenizer_folder,
    output:
        folder=directory("results/tokens/{corpus}.{tokenizer}"),
    log:
        logs("tokenize_corpus/{corpus}.{tokenizer}"),
    benchmark:
        benchmarks("tokenize_corpus/{corpus}.{tokenizer}")
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
