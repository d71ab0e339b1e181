rule summarise_costs:
    """Summarise the costs of every job from the benchmark files."""
    input:
        rules.recall.input,
        rules.circuits.input,
        rules.edits.input,
        rules.influence.input,
        rules.dynamics.input,
        rules.collapse.input,
        rules.ledger.input,
    output:
        table="results/tables/costs.csv",
        figure=report(
            "results/figures/costs.svg",
            category="9. Costs",
            labels={"figure": "Processor seconds by rule"},
            caption="../report/costs.rst",
        ),
    log:
        logs("summarise_costs/all"),
    benchmark:
        benchmarks("summarise_costs/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code_of("summarise_costs"),
    script:
        "../scripts/summarise_costs.py"
