"""What happens around a script: its log, its provenance, and manifests that notice damage."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from factlife.jobs import DamagedArtifact, Job, check_manifest

SCRIPTS = Path(__file__).parents[1] / "workflow/scripts"
SCRIPT = """
import json, logging, os, sys, warnings
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, ResourceList, Snakemake, Wildcards
from factlife import jobs

def named(kind, **values):
    return kind(fromdict=values)

snakemake = Snakemake(
    named(InputFiles, table="in.txt", folder="artifact"), named(OutputFiles), named(Params, depth=3),
    named(Wildcards, world="people"), 1, named(ResourceList), Log(["job.log"] if {log} else []), {{}}, "make_it", None,
)
print("before")
try:
    with jobs.start(snakemake) as job:
        print("printed")
        os.system("echo from a child")
        logging.info("logged")
        warnings.warn("warned")
        json.dump(job.provenance, open("provenance.json", "w"))
        {body}
except {caught}:
    print("caught")
print("after")
"""


def run(tmp_path, body="pass", log=True, caught="ZeroDivisionError"):
    (tmp_path / "in.txt").write_text("input")
    (tmp_path / "artifact").mkdir(exist_ok=True)
    (tmp_path / "artifact/manifest.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body, log=log, caught=caught)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(SCRIPTS), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, (tmp_path / "job.log").read_text() if log else ""


def test_all_that_a_job_says_is_in_its_log(tmp_path):
    out, err, log = run(tmp_path)
    assert out.split() == ["before", "after"] and err == ""
    for text in ("printed", "from a child", " root logged", "warned"):
        assert text in log


def test_log_of_a_failed_job_ends_with_the_traceback(tmp_path):
    out, _, log = run(tmp_path, body="1 / 0")
    assert out.split() == ["before", "caught", "after"]
    assert "make_it failed: division by zero\nTraceback (most recent call last):" in log
    assert log.strip().endswith("ZeroDivisionError: division by zero")


def test_log_of_an_error_that_names_its_remedy_has_no_traceback(tmp_path):
    out, _, log = run(tmp_path, body="jobs.check_manifest('nowhere')", caught="jobs.DamagedArtifact")
    assert out.split() == ["before", "caught", "after"]
    assert log.strip().endswith(
        "make_it failed: nowhere/manifest.json is missing or truncated; delete the folder and run again"
    )


def test_job_without_log_speaks_to_the_terminal(tmp_path):
    out, err, _ = run(tmp_path, log=False)
    assert "printed" in out and "logged" in err


def test_provenance_says_what_made_it(tmp_path):
    run(tmp_path)
    found = json.loads((tmp_path / "provenance.json").read_text())
    assert (found["rule"], found["wildcards"], found["params"]) == ("make_it", {"world": "people"}, {"depth": 3})
    assert found["inputs"] == {
        "in.txt": hashlib.sha256(b"input").hexdigest(),
        "artifact": hashlib.sha256(b"{}").hexdigest(),
    }
    assert {"torch", "transformers", "numpy"} < set(found["versions"])


@pytest.fixture
def artifact(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "weights").write_text("a")
    (tmp_path / "checkpoints/weights").write_text("b")
    Job(provenance={"rule": "r"}).write_manifest(tmp_path, parameters=3)
    return tmp_path


def test_manifest_of_whole_artifact(artifact):
    found = check_manifest(artifact)
    assert (found["rule"], found["parameters"]) == ("r", 3)
    assert found["files"] == {
        "weights": hashlib.sha256(b"a").hexdigest(),
        "checkpoints/weights": hashlib.sha256(b"b").hexdigest(),
    }


@pytest.mark.parametrize("name", ["weights", "checkpoints/weights"])
@pytest.mark.parametrize("content", ["ab", "", None])
def test_changed_and_missing_files_are_noticed(artifact, name, content):
    (artifact / name).unlink()
    if content is not None:
        (artifact / name).write_text(content)
    found = "nothing" if content is None else hashlib.sha256(content.encode()).hexdigest()[:8]
    with pytest.raises(
        DamagedArtifact, match=rf"{name} does not match its manifest \(sha256 .*… expected, {found} found"
    ):
        check_manifest(artifact)


@pytest.mark.parametrize("content", [None, '{"files": ', "{}"])
def test_manifest_that_is_missing_or_cut_off_is_named(artifact, content):
    (artifact / "manifest.json").unlink()
    if content is not None:
        (artifact / "manifest.json").write_text(content)
    with pytest.raises(
        DamagedArtifact, match=r"manifest.json is missing or truncated; delete the folder and run again"
    ):
        check_manifest(artifact)
