EDITED = {model: config["models"][model]["editing"] for model in models_with("editing")}


rule download_requests:
    """Download a pinned dataset of requests from the hub; compute nodes have no internet."""
    output:
        rows="results/downloads/requests/{model}.parquet",
    log:
        logs("download_requests/{model}"),
    benchmark:
        benchmarks("download_requests/{model}")
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        requests=of_model("editing", "requests"),
        code=code_of("download_requests"),
    script:
        "../scripts/download_requests.py"


rule select_requests:
    """Select the facts to edit, their new values, and the probes that evaluate each edit."""
    input:
        unpack(world_of_requests),
        unpack(files_of_requests),
        unpack(recall_of_requests),
        model="results/models/{model}/seed-{seed}",
    output:
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
        probes="results/requests/{model}/seed-{seed}/probes.parquet",
    log:
        logs("select_requests/{model}/seed-{seed}"),
    benchmark:
        benchmarks("select_requests/{model}/seed-{seed}")
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        requests=of_model("editing", "requests"),
        code=code_of("select_requests"),
    script:
        "../scripts/select_requests.py"


rule compute_key_covariance:
    """Compute the key covariance of all blocks in one pass over a corpus."""
    input:
        unpack(inputs_of_covariance),
        model="results/models/{model}/seed-{seed}",
    output:
        covariance="results/covariance/{model}/seed-{seed}/{covariance}.safetensors",
    log:
        logs("compute_key_covariance/{model}/seed-{seed}/{covariance}"),
    benchmark:
        benchmarks("compute_key_covariance/{model}/seed-{seed}/{covariance}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        covariance=lambda wildcards: config["covariances"][wildcards.covariance],
        code=code_of("compute_key_covariance"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/compute_key_covariance.py"


rule sweep_edit_sites:
    """Edit the model at every token and layer, and compare the sites that tracing and other criteria choose."""
    input:
        unpack(inputs_of_edits),
        model="results/models/{model}/seed-{seed}",
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
        probes="results/requests/{model}/seed-{seed}/probes.parquet",
    output:
        sweep="results/edit_sites/{model}/seed-{seed}.parquet",
        table="results/edit_sites/{model}/seed-{seed}.csv",
    log:
        logs("sweep_edit_sites/{model}/seed-{seed}"),
    benchmark:
        benchmarks("sweep_edit_sites/{model}/seed-{seed}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        site_sweep=of_model("editing", "site_sweep"),
        editor=editor_of,
        batch_tokens=of_model("batch_tokens"),
        resamples=config["run"]["resamples"],
        code=code_of("sweep_edit_sites"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/sweep_edit_sites.py"


rule compute_target_vectors:
    """Compute the target vectors of an editor's requests, or one shard of them; other editors may share them."""
    input:
        unpack(inputs_of_target_vectors),
        model="results/models/{model}/seed-{seed}",
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
    output:
        target_vectors="results/target_vectors/{model}/seed-{seed}/{editor}/shard-{shard}.safetensors",
    log:
        logs("compute_target_vectors/{model}/seed-{seed}/{editor}/shard-{shard}"),
    benchmark:
        benchmarks("compute_target_vectors/{model}/seed-{seed}/{editor}/shard-{shard}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        site=site_of_editor,
        values=lambda wildcards: config["editors"][wildcards.editor]["values"],
        schedule=lambda wildcards: config["editors"][wildcards.editor]["schedule"],
        shards=of_model("editing", "target_vectors", "shards"),
        code=code_of("compute_target_vectors"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/compute_target_vectors.py"


rule train_mend:
    """Train MEND's hypernetwork on requests about subjects that no evaluated request is about."""
    input:
        unpack(world_of_requests),
        unpack(files_of_requests),
        unpack(recall_of_requests),
        model="results/models/{model}/seed-{seed}",
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
    output:
        network="results/hypernetworks/{model}/seed-{seed}/{hypernetwork}.safetensors",
    log:
        logs("train_mend/{model}/seed-{seed}/{hypernetwork}"),
    benchmark:
        benchmarks("train_mend/{model}/seed-{seed}/{hypernetwork}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        hypernetwork=lambda wildcards: config["hypernetworks"][wildcards.hypernetwork],
        requests=of_model("editing", "requests"),
        code=code_of("train_mend"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/train_mend.py"


rule edit_model:
    """Edit a model with one editor, and evaluate the edits before and after."""
    input:
        unpack(inputs_of_edits),
        model="results/models/{model}/seed-{seed}",
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
        probes="results/requests/{model}/seed-{seed}/probes.parquet",
    output:
        folder=directory("results/edits/{model}/seed-{seed}/{editor}"),
    log:
        logs("edit_model/{model}/seed-{seed}/{editor}"),
    benchmark:
        benchmarks("edit_model/{model}/seed-{seed}/{editor}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        editor=lambda wildcards: config["editors"][wildcards.editor],
        evaluation=of_model("editing", "evaluation"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("edit_model", "editors", "editor"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/edit_model.py"


rule evaluate_edited_model_on_tasks:
    """Evaluate a model on multiple-choice tasks, with and without its edits."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
        edits="results/edits/{model}/seed-{seed}/{editor}",
    output:
        answers="results/tasks/{model}/seed-{seed}/{editor}.parquet",
    log:
        logs("evaluate_edited_model_on_tasks/{model}/seed-{seed}/{editor}"),
    benchmark:
        benchmarks("evaluate_edited_model_on_tasks/{model}/seed-{seed}/{editor}")
    conda:
        "../envs/harness.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=600,
        gpu=gpus_of_model,
    params:
        evaluation=of_model("editing", "evaluation"),
        code=code_of("evaluate_edited_model_on_tasks"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/evaluate_edited_model_on_tasks.py"


rule summarise_edits:
    """Summarise the evaluation of edits, with intervals over subjects, and plot it."""
    input:
        edits=for_all_editors("results/edits/{model}/seed-{seed}/{editor}"),
        tasks=for_editors_with_tasks(
            "results/tasks/{model}/seed-{seed}/{editor}.parquet"
        ),
    output:
        table="results/tables/edits.csv",
        editors=report(
            "results/figures/edits-editors.svg",
            category="5. Editing",
            labels={"figure": "Efficacy of editors and damage to other facts"},
            caption="../report/edits-editors.rst",
        ),
        criteria=report(
            "results/figures/edits-criteria.svg",
            category="5. Editing",
            labels={"figure": "The same edits under three criteria"},
            caption="../report/edits-criteria.rst",
        ),
        sequences=report(
            "results/figures/edits-sequences.svg",
            category="5. Editing",
            labels={"figure": "Number of edits that a layer can hold"},
            caption="../report/edits-sequences.rst",
        ),
    log:
        logs("summarise_edits/all"),
    benchmark:
        benchmarks("summarise_edits/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        resamples=config["run"]["resamples"],
        code=code_of("summarise_edits"),
    script:
        "../scripts/summarise_edits.py"


rule finetune_edited_model:
    """Fine-tune an edited model, and the unedited one in the same way, and evaluate both."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
        edits="results/edits/{model}/seed-{seed}/{editor}",
        probes="results/requests/{model}/seed-{seed}/probes.parquet",
        tokens=tokens_of_edits,
    output:
        survival="results/survival/{model}/seed-{seed}/{editor}.parquet",
    log:
        logs("finetune_edited_model/{model}/seed-{seed}/{editor}"),
    benchmark:
        benchmarks("finetune_edited_model/{model}/seed-{seed}/{editor}")
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        survival=of_model("editing", "survival"),
        batch_tokens=of_model("batch_tokens"),
        code=code_of("finetune_edited_model"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/finetune_edited_model.py"


EDIT_SURVIVAL = [
    f"results/survival/{model}/seed-{seed}/{editor}.parquet"
    for model, edited in EDITED.items()
    for seed in config["models"][model]["seeds"]
    for editor in edited["survival"]["editors"]
]


rule summarise_edit_survival:
    """Summarise how edits survive fine-tuning, with intervals over subjects, and plot it."""
    input:
        survival=EDIT_SURVIVAL,
    output:
        table="results/tables/edit_survival.csv",
        figure=report(
            "results/figures/edit_survival-retention.svg",
            category="5. Editing",
            labels={"figure": "Survival of edits under fine-tuning"},
            caption="../report/edit-survival.rst",
        ),
    log:
        logs("summarise_edit_survival/all"),
    benchmark:
        benchmarks("summarise_edit_survival/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        resamples=config["run"]["resamples"],
        code=code_of("summarise_edit_survival"),
    script:
        "../scripts/summarise_edit_survival.py"


EDIT_SITES = for_all_models(
    "results/edit_sites/{model}/seed-{seed}.csv",
    only=[model for model, edited in EDITED.items() if edited["site_sweep"]["editor"]],
)


rule summarise_edit_sites:
    """Summarise at which sites models can be edited, and which criteria predict them, and plot it."""
    input:
        edit_sites=EDIT_SITES,
    output:
        table="results/tables/edit_sites.csv",
        figure=report(
            "results/figures/edit_sites-regret.svg",
            category="5. Editing",
            labels={"figure": "Where to edit, and which criteria predict it"},
            caption="../report/edit-sites.rst",
        ),
    log:
        logs("summarise_edit_sites/all"),
    benchmark:
        benchmarks("summarise_edit_sites/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code_of("summarise_edit_sites"),
    script:
        "../scripts/summarise_edit_sites.py"


rule edits:
    """Edit facts, and test whether the edits survive."""
    input:
        rules.summarise_edits.output if EDITED else [],
        rules.summarise_edit_survival.output if EDIT_SURVIVAL else [],
        rules.summarise_edit_sites.output if EDIT_SITES else [],
