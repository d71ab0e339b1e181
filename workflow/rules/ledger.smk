LIVES = lives()
# The stages' summaries, of which the run's findings are told.
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


rule make_ledger:
    """Join what all stages say of every fact, ask what one says of another, and tell what was found."""
    input:
        lives=[path for life in LIVES for path in files_of_life(life)],
        summaries=SUMMARIES,
    output:
        ledger="results/ledger.parquet",
        csv="results/ledger.csv",
        questions="results/tables/questions.csv",
        # Beside the page, where the first page of the report finds it.
        findings="results/figures/ledger-findings.rst",
        reproductions="results/tables/reproductions.csv",
        published=report(
            "results/figures/ledger-reproductions.html",
            category="8. Ledger",
            labels={"figure": "Published effects"},
            caption="../report/reproductions.rst",
        ),
        page=report(
            "results/figures/ledger-facts.html",
            category="8. Ledger",
            labels={"figure": "Look a fact up"},
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
        "logs/make_ledger/all.log",
    benchmark:
        "logs/make_ledger/all.benchmark.jsonl"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        lives=LIVES,
        ledger=lookup(within=config, dpath="ledger"),
        code=code_of("make_ledger"),
    script:
        "../scripts/make_ledger.py"


rule ledger:
    """One life per fact, and what stages say of each other."""
    input:
        rules.make_ledger.output,
