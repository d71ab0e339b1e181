ARTIFACTS = ledger_artifacts()


# Summary tables of the stages, from which the findings are written.
SUMMARIES = sorted(
    {
        path
        for stage in (
            rules.recall,
            rules.dynamics,
            rules.circuits,
            rules.edits,
            rules.influence,
            rules.collapse,
        )
        for path in stage.input
        if re.fullmatch(r"results/tables/[^/]*\.csv", path)
    }
)


rule build_ledger:
    """Join the results of all stages by fact, answer the questions across stages and write the findings."""
    input:
        artifacts=[
            path for artifacts in ARTIFACTS for path in paths_of_artifacts(artifacts)
        ],
        summaries=SUMMARIES,
    output:
        ledger="results/ledger.parquet",
        csv="results/ledger.csv",
        questions="results/tables/questions.csv",
        # The first page of the report looks for this file beside the page of facts.
        findings="results/figures/ledger-findings.rst",
        reproductions="results/tables/reproductions.csv",
        claims=report(
            "results/figures/ledger-reproductions.html",
            category="8. Ledger",
            labels={"figure": "Published effects"},
            caption="../report/reproductions.rst",
        ),
        page=report(
            "results/figures/ledger-facts.html",
            category="8. Ledger",
            labels={"figure": "Look up a fact"},
            caption="../report/ledger-facts.rst",
        ),
        effects=report(
            "results/figures/questions-effects.svg",
            category="8. Ledger",
            labels={"figure": "Questions across stages"},
            caption="../report/questions-effects.rst",
        ),
        outcomes=report(
            "results/figures/questions-outcomes.svg",
            category="8. Ledger",
            labels={"figure": "Outcomes by predictor"},
            caption="../report/questions-outcomes.rst",
        ),
    log:
        logs("build_ledger/all"),
    benchmark:
        benchmarks("build_ledger/all")
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        artifacts=ARTIFACTS,
        questions=config["ledger"]["questions"],
        resamples=config["run"]["resamples"],
        code=code_of("build_ledger"),
    script:
        "../scripts/build_ledger.py"


rule ledger:
    """The ledger: one row per fact, and questions across stages."""
    input:
        rules.build_ledger.output if ARTIFACTS else [],
