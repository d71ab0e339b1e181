"""The workflow as a module of another one."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest

OTHER = """
configfile: "factlife/config/config.yaml"
configfile: "factlife/config/smoke.yaml"


module factlife:
    snakefile:
        "factlife/Snakefile"
    config:
        config
    prefix:
        "life"


use rule * from factlife as factlife_*


rule count_facts:
    input:
        "life/results/worlds/people/facts.parquet",
    output:
        "count.txt",
    default_target: True
    run:
        import pandas

        with open(output[0], "w") as file:
            file.write(str(len(pandas.read_parquet(input[0]))))
"""


@pytest.fixture
def other(check_out, tmp_path):
    (tmp_path / "factlife").mkdir()
    check_out(tmp_path / "factlife")
    (tmp_path / "Snakefile").write_text(OTHER)
    return tmp_path


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_another_workflow_uses_a_world(other):
    done = snakemake(other)
    assert done.returncode == 0, done.stderr
    facts = pd.read_parquet(other / "life/results/worlds/people/facts.parquet")
    assert int((other / "count.txt").read_text()) == len(facts) == facts["fact_id"].nunique()


def test_another_workflow_can_plan_all(other):
    done = snakemake(other, "--dry-run", "factlife_all")
    assert done.returncode == 0, done.stderr
    assert "life/results/tables/recall.csv" in done.stdout + done.stderr
