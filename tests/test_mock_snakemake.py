"""A rule's script in this process, and what it sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "config/smoke.yaml"
TOOL = ROOT / "workflow/scripts/mock_snakemake.py"


@pytest.fixture
def mock():
    return pytest.importorskip("mock_snakemake")


def test_object_is_what_a_script_sees(mock, tmp_path):
    here = Path.cwd()
    found = mock.mock_snakemake("train_model", configfile=SMOKE, directory=tmp_path, model="people-pieces", seed=0)
    assert Path.cwd() == here
    assert found.rule == "train_model"
    assert dict(found.wildcards.items()) == {"model": "people-pieces", "seed": "0"}
    assert found.input.start == "results/tokenizers/people-pieces"
    assert found.output.folder == "results/models/people-pieces/seed-0"
    assert list(found.log) == ["logs/train_model/people-pieces/seed-0.log"]
    assert found.params.resume.startswith("resume/") and found.params.resume.endswith("people-pieces/seed-0")
    assert found.params.source["config"]["hidden_size"] == 32, "the scenario lies over the default"
    assert found.params.training["optimizer"] == "muon", "defaults are filled in"
    assert found.threads == found.params.torch_threads == found.config["run"]["threads"]
    assert found.resources.mem_mb > 0
    assert Path(found.scriptdir) == ROOT / "workflow/scripts"


def test_generate_world_runs_in_this_process(mock, tmp_path, capfd):
    for _ in range(2):
        mock.run("generate_world", configfile=[SMOKE], directory=tmp_path, world="people")
    folder = tmp_path / "results/worlds/people"
    entities = pd.read_parquet(folder / "entities.parquet")
    assert (entities["kind"] == "person").sum() == 30 and (folder / "graph.graphml").exists()
    mock.run("generate_corpus", configfile=SMOKE, directory=tmp_path, corpus="people")
    assert len(pd.read_parquet(tmp_path / "results/corpora/people/documents.parquet"))


def test_command_line(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("worlds: {countries: {relations: [capital]}}")
    done = subprocess.run(
        [
            sys.executable,
            TOOL,
            "generate_world",
            "world=countries",
            "--configfile",
            SMOKE,
            mine,
            "--directory",
            tmp_path / "run",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    facts = pd.read_parquet(tmp_path / "run/results/worlds/countries/facts.parquet")
    assert set(facts["relation"]) == {"capital"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate_world"], "rule generate_world has the wildcards ['world']: check ['world']"),
        (["generate_world", "world=people", "seed=1"], "check ['seed']"),
        (["generate_world", "people"], "people is not of the form key=value"),
        (["make_wrold", "world=people"], "make_wrold"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    command = [sys.executable, TOOL, *arguments, "--directory", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stderr
