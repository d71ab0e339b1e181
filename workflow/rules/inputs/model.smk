def inputs_of_source(wildcards):
    source = settings.models[wildcards.model].source
    if source.kind == "gguf" and JOBS_USE_THIS_PYTHON and (problem := source.missing()):
        raise WorkflowError(f"models.{wildcards.model}.source: {problem}")
    adapter = settings.models[wildcards.model].adapter
    return ({"adapter": adapter} if adapter else {}) | {
        "hub": {"download": f"results/downloads/{wildcards.model}"},
        "folder": {"path": getattr(source, "path", None)},
    }.get(source.kind, {})


def processes_of_training(wildcards):
    model = config["models"][wildcards.model]
    return max(model["gpu"], model["processes"])


def gpus_of_training(wildcards):
    model = config["models"][wildcards.model]
    return model["gpu"] * model["nodes"]


def threads_of_training(wildcards):
    """Threads per node."""
    return TORCH_THREADS * processes_of_training(wildcards)


def memory_of_training(wildcards):
    """Memory per node, in MB."""
    return 4000 * processes_of_training(wildcards)


def nodes_of_training(wildcards):
    nodes = config["models"][wildcards.model]["nodes"]
    return nodes if nodes > 1 else None


def mpi_of_training(wildcards):
    return "srun" if nodes_of_training(wildcards) else None


def tasks_per_gpu_of_training(wildcards):
    """0 with several nodes; otherwise Slurm's plugin would read `tasks` as tasks per GPU."""
    return 0 if nodes_of_training(wildcards) else None
