rule make_world:
    """Draw the entities, facts and probes of a world."""
    input:
        unpack(files_of_world),
    output:
        entities="results/worlds/{world}/entities.parquet",
        facts="results/worlds/{world}/facts.parquet",
        probes="results/worlds/{world}/probes.parquet",
        graphml="results/worlds/{world}/graph.graphml",
        json="results/worlds/{world}/graph.json",
    log:
        "logs/make_world/{world}.log",
    benchmark:
        "logs/make_world/{world}.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        world=lookup(within=config, dpath="worlds/{world}"),
        code=code_of("make_world"),
    script:
        "../scripts/make_world.py"


rule show_world:
    """Show a world at a glance: a piece of its graph, documents, probes."""
    input:
        unpack(look_of_world),
    output:
        page=report(
            "results/figures/world-{world}.html",
            category="1. Worlds",
            labels={"figure": "World {world}"},
            caption="../report/world.rst",
        ),
    log:
        "logs/show_world/{world}.log",
    benchmark:
        "logs/show_world/{world}.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code_of("show_world"),
    script:
        "../scripts/show_world.py"
