"""The smoke scenario on a real Slurm, against the same run without it. `make test-slurm` starts and stops the Slurm."""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.skipif(not os.environ.get("FACTLIFE_SLURM"), reason="needs a Slurm: make test-slurm")

# What only this small cluster needs: it has no accounting database to ask, and its jobs are short.
SLURM = [
    *("--profile", "profiles/slurm"),
    *("--default-resources", "slurm_partition=main", "gpu=0", "gpu_model=standin"),
    *("--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "2"),
    *("--latency-wait", "5"),
]
# Stand-ins are no real GPUs: models run on the CPU, and numbers stay the same.
ON_GPU = {"models": {"functions": {"gpu": 1}}}


@pytest.fixture(scope="module")
def runs(check_out, tmp_path_factory):
    """Checkout and run, on Slurm and locally, at the same time, because Slurm's jobs mostly wait."""
    slurm, local = (check_out(tmp_path_factory.mktemp(name)) for name in ("slurm", "local"))
    with ThreadPoolExecutor() as pool:
        started = [
            pool.submit(slurm.snakemake, "all", *SLURM, config=ON_GPU),
            pool.submit(local.snakemake, "all", "--cores", "1", config=ON_GPU),
        ]
        return [(checkout, run.result().passed()) for checkout, run in zip((slurm, local), started, strict=True)]


def slurm_jobs(folder):
    """What Slurm knows of the jobs that a folder submitted: by rule and wildcards, its own fields."""
    text = subprocess.run(["scontrol", "--oneliner", "show", "job"], check=True, capture_output=True, text=True).stdout
    jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines()]
    return {job["Comment"]: job for job in jobs if job.get("WorkDir") == str(folder)}


def test_every_job_ran_as_a_slurm_job_with_what_its_rule_asks_for(runs):
    (checkout, run), (_, without) = runs
    jobs = slurm_jobs(checkout.folder)

    def comment(job):
        rule, *wildcards = job.split()
        return f"rule_{rule}_wildcards_{'_'.join(wildcards)}" if wildcards else f"rule_{rule}"

    assert run.jobs() == without.jobs()
    # The export of a circuit is a local rule.
    submitted = {job for job in run.jobs() if job.split()[0] not in ("all", "export_circuit")}
    assert set(jobs) == {comment(job) for job in submitted}
    assert {job["JobState"] for job in jobs.values()} == {"COMPLETED"}
    assert jobs["rule_generate_world_wildcards_people"]["MinMemoryNode"] == "1000M"
    assert jobs["rule_generate_world_wildcards_people"]["TimeLimit"] == "00:10:00"
    assert jobs["rule_train_model_wildcards_functions_0"]["MinMemoryNode"] == "4000M"
    with_gpu = {name for name, job in jobs.items() if re.search(r"gpu:standin:[1-9]", job.get("TresPerJob", ""))}
    # The model that asks for a GPU, wherever it is run.
    assert with_gpu == {
        "rule_train_model_wildcards_functions_0",
        "rule_evaluate_recall_wildcards_functions_0",
        "rule_rank_by_model_wildcards_functions_0_functions_gradient-cosine",
    }


def test_tables_equal_those_of_the_local_run(runs):
    (slurm, _), (local, _) = runs
    patterns = (
        "results/tables/*.csv",
        "results/recall/**/*.parquet",
        "results/worlds/**/*.parquet",
        "results/corpora/**/*.parquet",
    )
    paths = {path.relative_to(local.folder) for pattern in patterns for path in local.folder.glob(pattern)}
    # What jobs cost is never the same twice.
    paths -= {Path("results/tables/costs.csv")}

    assert len(paths) >= 1 + 3 + 2 * 3 + 2
    for path in sorted(paths):
        read = pd.read_csv if path.suffix == ".csv" else pd.read_parquet
        pd.testing.assert_frame_equal(
            read(slurm.folder / path), read(local.folder / path), check_exact=True, obj=str(path)
        )


def test_a_failing_job_is_reported_with_its_log(check_out, tmp_path):
    checkout = check_out(tmp_path)
    (tmp_path / "facts.csv").write_text("subject,relation,value\nOslo,country,Norway\n")
    (tmp_path / "templates.yaml").write_text("country: {train: ['{name} lies in {value}.']}\n")
    world = {"kind": "table", "facts": "facts.csv", "templates": "templates.yaml"}

    run = checkout.snakemake("results/worlds/mine/facts.parquet", *SLURM, config={"worlds": {"mine": world}})

    assert run.status != 0
    assert "logs/generate_world/mine.log" in run.text
    assert "facts.csv has no column `object`" in run.text
    assert slurm_jobs(tmp_path)["rule_generate_world_wildcards_mine"]["JobState"] == "FAILED"
