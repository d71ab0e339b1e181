UNTRAINED = [name for name in config["models"] if name not in TRAINED]
PRETRAINED = [
    name
    for name, model in config["models"].items()
    if model["source"]["kind"] not in ("scratch", "trained")
]


rule download_model:
    """Download a pinned revision from the hub, on the submitting machine."""
    output:
        folder=directory("results/downloads/{model}"),
    log:
        logs("download_model/{model}"),
    benchmark:
        benchmarks("download_model/{model}")
    wildcard_constraints:
        model=one_of(PRETRAINED),
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        source=of_model("source"),
    script:
        "../scripts/download_model.py"


rule convert_model:
    """Convert a pretrained model, with its adapter merged, to safetensors and a tokenizer."""
    input:
        unpack(inputs_of_source),
    output:
        folder=directory("results/sources/{model}"),
    log:
        logs("convert_model/{model}"),
    benchmark:
        benchmarks("convert_model/{model}")
    wildcard_constraints:
        model=one_of(PRETRAINED),
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        source=of_model("source"),
        code=code_of("convert_model"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/convert_model.py"


rule link_pretrained_model:
    """Link a pretrained model that is not trained further."""
    input:
        source="results/sources/{model}",
    output:
        folder=directory("results/models/{model}/seed-{seed}"),
    log:
        logs("link_pretrained_model/{model}/seed-{seed}"),
    benchmark:
        benchmarks("link_pretrained_model/{model}/seed-{seed}")
    wildcard_constraints:
        model=one_of(UNTRAINED),
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        code=code_of("link_pretrained_model"),
    script:
        "../scripts/link_pretrained_model.py"


rule train_model:
    """Train a model on a corpus, with checkpoints at doubling exposures."""
    input:
        unpack(inputs_of_training),
    output:
        folder=directory("results/models/{model}/seed-{seed}"),
        curve="results/models/{model}/seed-{seed}.training.csv",
    log:
        logs("train_model/{model}/seed-{seed}"),
    benchmark:
        benchmarks("train_model/{model}/seed-{seed}")
    wildcard_constraints:
        model=one_of(TRAINED),
    conda:
        "../envs/torch.yaml"
    threads: threads_of_training
    resources:
        mem_mb=memory_of_training,
        runtime=240,
        gpu=gpus_of_training,
        nodes=nodes_of_training,
        # Only with several nodes: the job then starts one `torchrun` on each node.
        tasks=nodes_of_training,
        tasks_per_gpu=tasks_per_gpu_of_training,
        mpi=mpi_of_training,
    params:
        source=of_model("source"),
        processes=processes_of_training,
        nodes=of_model("nodes"),
        training=of_model("training"),
        resume=resume_folder,
        code=code_of("train_model"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/train_model.py"
