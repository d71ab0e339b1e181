wildcard_constraints:
    editor=one_of(config["editing"]["editors"]),
    moments=one_of(config["editing"]["moments"]),
    hypernetwork=one_of(config["editing"]["hypernetworks"]),


rule download_requests:
    """Fetch a pinned dataset of requests from the hub; compute nodes have no internet."""
    output:
        rows="results/downloads/requests/{model}.parquet",
    log:
        "logs/download_requests/{model}.log",
    benchmark:
        "logs/download_requests/{model}.benchmark.jsonl"
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        requests=lookup(within=config, dpath="editing/models/{model}/requests"),
        code=code_of("download_requests"),
    script:
        "../scripts/download_requests.py"


rule make_requests:
    """Choose which facts are to become what, and what is asked about each."""
    input:
        unpack(world_of_model),
        unpack(files_of_requests),
        unpack(recall_of_requests),
        model="results/models/{model}/seed-{seed}",
    output:
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
        probes="results/requests/{model}/seed-{seed}/probes.parquet",
    log:
        "logs/make_requests/{model}/seed-{seed}.log",
    benchmark:
        "logs/make_requests/{model}/seed-{seed}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        requests=lookup(within=config, dpath="editing/models/{model}/requests"),
        code=code_of("make_requests"),
    script:
        "../scripts/make_requests.py"


rule measure_moments:
    """Measure the second moments of what down-projections read, of all blocks in one pass."""
    input:
        unpack(inputs_of_moments),
        model="results/models/{model}/seed-{seed}",
    output:
        moments="results/moments/{model}/seed-{seed}/{moments}.safetensors",
    log:
        "logs/measure_moments/{model}/seed-{seed}/{moments}.log",
    benchmark:
        "logs/measure_moments/{model}/seed-{seed}/{moments}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        moments=lookup(within=config, dpath="editing/moments/{moments}"),
        code=code_of("measure_moments"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/measure_moments.py"


rule choose_place:
    """Try every token and block, and say which of them tracing and other choosers take."""
    input:
        unpack(inputs_of_edits),
        model="results/models/{model}/seed-{seed}",
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
        probes="results/requests/{model}/seed-{seed}/probes.parquet",
    output:
        sweep="results/places/{model}/seed-{seed}.parquet",
        table="results/places/{model}/seed-{seed}.csv",
    log:
        "logs/choose_place/{model}/seed-{seed}.log",
    benchmark:
        "logs/choose_place/{model}/seed-{seed}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        places=lookup(within=config, dpath="editing/models/{model}/places"),
        editor=editor_of,
        batch_tokens=lookup(within=config, dpath="recall/batch_tokens"),
        resamples=lookup(within=config, dpath="recall/resamples"),
        code=code_of("choose_place"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/choose_place.py"


rule find_values:
    """Find the target values of an editor's requests, all or a share of them; other editors may read them too."""
    input:
        unpack(inputs_of_values),
        model="results/models/{model}/seed-{seed}",
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
    output:
        values="results/values/{model}/seed-{seed}/{editor}/shard-{shard}.safetensors",
    log:
        "logs/find_values/{model}/seed-{seed}/{editor}/shard-{shard}.log",
    benchmark:
        "logs/find_values/{model}/seed-{seed}/{editor}/shard-{shard}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        place=lookup(within=config, dpath="editing/editors/{editor}/place"),
        values=lookup(within=config, dpath="editing/editors/{editor}/values"),
        schedule=lookup(within=config, dpath="editing/editors/{editor}/schedule"),
        shards=lookup(within=config, dpath="editing/models/{model}/values/shards"),
        code=code_of("find_values"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/find_values.py"


rule train_mend:
    """Train MEND's network on requests about subjects that no evaluated request is about."""
    input:
        unpack(world_of_model),
        unpack(files_of_requests),
        unpack(recall_of_requests),
        model="results/models/{model}/seed-{seed}",
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
    output:
        network="results/hypernetworks/{model}/seed-{seed}/{hypernetwork}.safetensors",
    log:
        "logs/train_mend/{model}/seed-{seed}/{hypernetwork}.log",
    benchmark:
        "logs/train_mend/{model}/seed-{seed}/{hypernetwork}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        hypernetwork=lookup(within=config, dpath="editing/hypernetworks/{hypernetwork}"),
        requests=lookup(within=config, dpath="editing/models/{model}/requests"),
        code=code_of("train_mend"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/train_mend.py"


rule edit_model:
    """Write requests into a model with one editor, and judge them before and after."""
    input:
        unpack(inputs_of_edits),
        model="results/models/{model}/seed-{seed}",
        requests="results/requests/{model}/seed-{seed}/requests.parquet",
        probes="results/requests/{model}/seed-{seed}/probes.parquet",
    output:
        folder=directory("results/edits/{model}/seed-{seed}/{editor}"),
    log:
        "logs/edit_model/{model}/seed-{seed}/{editor}.log",
    benchmark:
        "logs/edit_model/{model}/seed-{seed}/{editor}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        editor=lookup(within=config, dpath="editing/editors/{editor}"),
        measures=lookup(within=config, dpath="editing/models/{model}/measures"),
        batch_tokens=lookup(within=config, dpath="recall/batch_tokens"),
        code=code_of("edit_model"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/edit_model.py"


rule test_edited_model:
    """Put a model with and without its edits through multiple-choice tasks."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
        edits="results/edits/{model}/seed-{seed}/{editor}",
    output:
        answers="results/tasks/{model}/seed-{seed}/{editor}.parquet",
    log:
        "logs/test_edited_model/{model}/seed-{seed}/{editor}.log",
    benchmark:
        "logs/test_edited_model/{model}/seed-{seed}/{editor}.benchmark.jsonl"
    conda:
        "../envs/harness.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=600,
        gpu=gpus_of_model,
    params:
        measures=lookup(within=config, dpath="editing/models/{model}/measures"),
        code=code_of("test_edited_model"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/test_edited_model.py"


rule summarise_edits:
    """Summarise what became of edits, with intervals over subjects, and draw it."""
    input:
        edits=for_all_editors("results/edits/{model}/seed-{seed}/{editor}"),
        tasks=for_tested_editors("results/tasks/{model}/seed-{seed}/{editor}.parquet"),
    output:
        table="results/tables/edits.csv",
        editors=report(
            "results/figures/edits-editors.svg",
            category="5. Editing",
            labels={"figure": "What editors reach, and what it costs"},
            caption="../report/edits-editors.rst",
        ),
        judges=report(
            "results/figures/edits-judges.svg",
            category="5. Editing",
            labels={"figure": "The same edits by three judges"},
            caption="../report/edits-judges.rst",
        ),
        sequences=report(
            "results/figures/edits-sequences.svg",
            category="5. Editing",
            labels={"figure": "How many edits a layer holds"},
            caption="../report/edits-sequences.rst",
        ),
    log:
        "logs/summarise_edits/all.log",
    benchmark:
        "logs/summarise_edits/all.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        resamples=lookup(within=config, dpath="recall/resamples"),
        code=code_of("summarise_edits"),
    script:
        "../scripts/summarise_edits.py"


rule finetune_edits:
    """Fine-tune an edited model, and the unedited one alike, and ask what they still say."""
    input:
        unpack(world_of_model),
        model="results/models/{model}/seed-{seed}",
        edits="results/edits/{model}/seed-{seed}/{editor}",
        probes="results/requests/{model}/seed-{seed}/probes.parquet",
        tokens=tokens_of_edits,
    output:
        survival="results/survival/{model}/seed-{seed}/{editor}.parquet",
    log:
        "logs/finetune_edits/{model}/seed-{seed}/{editor}.log",
    benchmark:
        "logs/finetune_edits/{model}/seed-{seed}/{editor}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=6000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        survival=lookup(within=config, dpath="editing/models/{model}/survival"),
        batch_tokens=lookup(within=config, dpath="recall/batch_tokens"),
        code=code_of("finetune_edits"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/finetune_edits.py"


rule summarise_survival:
    """Summarise what fine-tuning leaves of edits, with intervals over subjects, and draw it."""
    input:
        survival=FOLLOWED,
    output:
        table="results/tables/edit_survival.csv",
        figure=report(
            "results/figures/edit_survival-retention.svg",
            category="5. Editing",
            labels={"figure": "What fine-tuning leaves of edits"},
            caption="../report/edit-survival.rst",
        ),
    log:
        "logs/summarise_survival/all.log",
    benchmark:
        "logs/summarise_survival/all.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        resamples=lookup(within=config, dpath="recall/resamples"),
        code=code_of("summarise_survival"),
    script:
        "../scripts/summarise_survival.py"


rule summarise_places:
    """Summarise where models can be edited, and who predicts it, and draw it."""
    input:
        places=PLACES,
    output:
        table="results/tables/edit_places.csv",
        figure=report(
            "results/figures/edit_places-choosers.svg",
            category="5. Editing",
            labels={"figure": "Where to edit, and who predicts it"},
            caption="../report/edit-places.rst",
        ),
    log:
        "logs/summarise_places/all.log",
    benchmark:
        "logs/summarise_places/all.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code_of("summarise_places"),
    script:
        "../scripts/summarise_places.py"


rule edits:
    """What becomes of facts that are edited, and whether edits survive."""
    input:
        rules.summarise_edits.output if EDITED else [],
        rules.summarise_survival.output if FOLLOWED else [],
        rules.summarise_places.output if PLACES else [],
