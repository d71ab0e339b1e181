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
        code=digest("world"),
    script:
        "../scripts/make_world.py"
