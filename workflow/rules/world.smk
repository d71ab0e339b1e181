rule generate_world:
    """Generate the entities, facts and probes of a world."""
    input:
        unpack(inputs_of_world),
    output:
        entities="results/worlds/{world}/entities.parquet",
        facts="results/worlds/{world}/facts.parquet",
        probes="results/worlds/{world}/probes.parquet",
        graphml="results/worlds/{world}/graph.graphml",
        json="results/worlds/{world}/graph.json",
    log:
        logs("generate_world/{world}"),
    benchmark:
        benchmarks("generate_world/{world}")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        world=lambda wildcards: config["worlds"][wildcards.world],
        code=code_of("generate_world", "worlds", "world"),
    script:
        "../scripts/generate_world.py"


WORLDS_OF_RUN = sorted(
    {
        config["models"][model]["world"]
        for model in config["run"]["models"]
        if config["models"][model]["world"]
    }
)


rule plot_world:
    """Show part of a world's graph, example documents and probes on one page."""
    input:
        unpack(inputs_of_world_plot),
    output:
        page=report(
            "results/figures/world-{world}.html",
            category="1. Worlds",
            labels={"figure": "World {world}"},
            caption="../report/world.rst",
        ),
    log:
        logs("plot_world/{world}"),
    benchmark:
        benchmarks("plot_world/{world}")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code_of("plot_world"),
    script:
        "../scripts/plot_world.py"
