rule match_documents:
    """Rank training documents by their words."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
    output:
        scores=SCORES,
    log:
        "logs/match_documents/{model}/seed-{seed}/{corpus}.{ranker}.log",
    benchmark:
        "logs/match_documents/{model}/seed-{seed}/{corpus}.{ranker}.benchmark.jsonl"
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_ROOM["text"]),
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        ranker=lookup(within=config, dpath="influence/rankers/{ranker}"),
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        code=code_of("match_documents"),
    script:
        "../scripts/match_documents.py"


rule download_encoder:
    """Fetch a pinned encoder from the hub; compute nodes have no internet."""
    output:
        folder=directory("results/downloads/encoders/{ranker}"),
    log:
        "logs/download_encoder/{ranker}.log",
    benchmark:
        "logs/download_encoder/{ranker}.benchmark.jsonl"
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_ROOM["embedding"]),
    localrule: True
    conda:
        "../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        source=lookup(within=config, dpath="influence/rankers/{ranker}/source"),
    script:
        "../scripts/download_model.py"


rule embed_documents:
    """Rank training documents by sentence embeddings."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
        encoder=encoder_of_ranker,
    output:
        scores=SCORES,
    log:
        "logs/embed_documents/{model}/seed-{seed}/{corpus}.{ranker}.log",
    benchmark:
        "logs/embed_documents/{model}/seed-{seed}/{corpus}.{ranker}.benchmark.jsonl"
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_ROOM["embedding"]),
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=gpus_of_model,
    params:
        ranker=lookup(within=config, dpath="influence/rankers/{ranker}"),
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        batch_tokens=lookup(within=config, dpath="influence/batch_tokens"),
        code=code_of("embed_documents"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/embed_documents.py"


rule rank_documents:
    """Rank training documents by what a model makes of them."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
        model="results/models/{model}/seed-{seed}",
    output:
        scores=SCORES,
    log:
        "logs/rank_documents/{model}/seed-{seed}/{corpus}.{ranker}.log",
    benchmark:
        "logs/rank_documents/{model}/seed-{seed}/{corpus}.{ranker}.benchmark.jsonl"
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_ROOM["neural"]),
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        ranker=lookup(within=config, dpath="influence/rankers/{ranker}"),
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        batch_tokens=lookup(within=config, dpath="influence/batch_tokens"),
        code=code_of("rank_documents"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/rank_documents.py"


rule rank_with_kronfluence:
    """Rank training documents with Kronfluence."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
        model="results/models/{model}/seed-{seed}",
    output:
        scores=SCORES,
    log:
        "logs/rank_with_kronfluence/{model}/seed-{seed}/{corpus}.{ranker}.log",
    benchmark:
        "logs/rank_with_kronfluence/{model}/seed-{seed}/{corpus}.{ranker}.benchmark.jsonl"
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_ROOM["kronfluence"]),
    conda:
        "../envs/kronfluence.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        ranker=lookup(within=config, dpath="influence/rankers/{ranker}"),
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        batch_tokens=lookup(within=config, dpath="influence/batch_tokens"),
        code=code_of("rank_with_kronfluence"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/rank_with_kronfluence.py"


rule rank_with_bergson:
    """Rank training documents with Bergson."""
    input:
        unpack(world_of_model),
        documents="results/corpora/{corpus}/documents.parquet",
        model="results/models/{model}/seed-{seed}",
    output:
        scores=SCORES,
    log:
        "logs/rank_with_bergson/{model}/seed-{seed}/{corpus}.{ranker}.log",
    benchmark:
        "logs/rank_with_bergson/{model}/seed-{seed}/{corpus}.{ranker}.benchmark.jsonl"
    wildcard_constraints:
        ranker=one_of(RANKERS_BY_ROOM["bergson"]),
    conda:
        "../envs/bergson.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        ranker=lookup(within=config, dpath="influence/rankers/{ranker}"),
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        batch_tokens=lookup(within=config, dpath="influence/batch_tokens"),
        code=code_of("rank_with_bergson"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/rank_with_bergson.py"


rule retrain_model:
    """Train a model anew without some documents: a share of the bank by which all rankers are judged."""
    input:
        unpack(inputs_of_training),
        unpack(world_of_model),
        documents=documents_attributed,
    output:
        models="results/influence/{model}/bank/shard-{shard}.parquet",
    log:
        "logs/retrain_model/{model}/shard-{shard}.log",
    benchmark:
        "logs/retrain_model/{model}/shard-{shard}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=gpus_of_model,
    params:
        source=lookup(within=config, dpath="models/{model}/source"),
        training=lookup(within=config, dpath="models/{model}/training"),
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        batch_tokens=lookup(within=config, dpath="influence/batch_tokens"),
        code=code_of("retrain_model"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/retrain_model.py"


rule remove_documents:
    """Train a model anew without the documents that a ranker puts first."""
    input:
        unpack(inputs_of_training),
        unpack(world_of_model),
        documents=documents_attributed,
        scores=scores_of_ranker,
    output:
        models="results/influence/{model}/bank/without-{ranker}.parquet",
    log:
        "logs/remove_documents/{model}/{ranker}.log",
    benchmark:
        "logs/remove_documents/{model}/{ranker}.benchmark.jsonl"
    wildcard_constraints:
        ranker=one_of(INFLUENCE["rankers"]),
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        source=lookup(within=config, dpath="models/{model}/source"),
        training=lookup(within=config, dpath="models/{model}/training"),
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        batch_tokens=lookup(within=config, dpath="influence/batch_tokens"),
        code=code_of("remove_documents"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/remove_documents.py"


rule patch_documents:
    """Train a model one step further on what rankers put first, one document at a time."""
    input:
        unpack(world_of_model),
        documents=documents_attributed,
        model="results/models/{model}/seed-{seed}",
        scores=scores_of_model,
    output:
        patched="results/influence/{model}/seed-{seed}.patches.parquet",
    log:
        "logs/patch_documents/{model}/seed-{seed}.log",
    benchmark:
        "logs/patch_documents/{model}/seed-{seed}.benchmark.jsonl"
    conda:
        "../envs/torch.yaml"
    threads: TORCH_THREADS
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=gpus_of_model,
    params:
        training=lookup(within=config, dpath="models/{model}/training"),
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        rankers=lookup(within=config, dpath="influence/models/{model}/rankers"),
        batch_tokens=lookup(within=config, dpath="influence/batch_tokens"),
        code=code_of("patch_documents"),
        torch_threads=TORCH_THREADS,
    script:
        "../scripts/patch_documents.py"


rule judge_rankings:
    """Compare rankings with what documents state, and with what models do that never read them."""
    input:
        unpack(world_of_model),
        documents=documents_attributed,
        recall="results/recall/{model}/seed-{seed}.parquet",
        scores=scores_of_model,
        bank=bank_of_model,
        patched=patches_of_model,
    output:
        judged="results/influence/{model}/seed-{seed}.queries.parquet",
        retrained="results/influence/{model}/seed-{seed}.retraining.parquet",
    log:
        "logs/judge_rankings/{model}/seed-{seed}.log",
    benchmark:
        "logs/judge_rankings/{model}/seed-{seed}.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        attribution=lookup(within=config, dpath="influence/models/{model}"),
        rankers=lookup(within=config, dpath="influence/models/{model}/rankers"),
        world=lookup(within=config, dpath="models/{model}/world"),
        k=lookup(within=config, dpath="influence/k"),
        resamples=lookup(within=config, dpath="influence/resamples"),
        code=code_of("judge_rankings"),
    script:
        "../scripts/judge_rankings.py"


rule summarise_influence:
    """Summarise how well rankers find what is relevant and foretell retrained models, and draw it."""
    input:
        judged=for_attributed_models(
            "results/influence/{model}/seed-{seed}.queries.parquet"
        ),
        retrained=for_attributed_models(
            "results/influence/{model}/seed-{seed}.retraining.parquet"
        ),
    output:
        table="results/tables/influence.csv",
        retrieval=report(
            "results/figures/influence-retrieval.svg",
            category="6. Influence",
            labels={"figure": "Which ranker finds the documents"},
            caption="../report/influence-retrieval.rst",
        ),
        recall=report(
            "results/figures/influence-recall.svg",
            category="6. Influence",
            labels={"figure": "Documents found against documents looked at"},
            caption="../report/influence-recall.rst",
        ),
        composition=report(
            "results/figures/influence-composition.svg",
            category="6. Influence",
            labels={"figure": "What the first documents are about"},
            caption="../report/influence-composition.rst",
        ),
        agreement=report(
            "results/figures/influence-agreement.svg",
            category="6. Influence",
            labels={"figure": "Agreement between rankers"},
            caption="../report/influence-agreement.rst",
        ),
        retraining=(
            report(
                "results/figures/influence-retraining.svg",
                category="6. Influence",
                labels={"figure": "Which ranker foretells retrained models"},
                caption="../report/influence-retraining.rst",
            )
            if RETRAINED
            else []
        ),
        sweeps=(
            report(
                "results/figures/influence-sweeps.svg",
                category="6. Influence",
                labels={"figure": "Scores against settings"},
                caption="../report/influence-sweeps.rst",
            )
            if SWEEPS
            else []
        ),
    log:
        "logs/summarise_influence/all.log",
    benchmark:
        "logs/summarise_influence/all.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        resamples=lookup(within=config, dpath="influence/resamples"),
        k=INFLUENCE["k"][len(INFLUENCE["k"]) // 2],
        sweeps=SWEEPS,
        code=code_of("summarise_influence"),
    script:
        "../scripts/summarise_influence.py"


rule influence:
    """Which documents taught models what they know."""
    input:
        rules.summarise_influence.output if rules.summarise_influence.input else [],
