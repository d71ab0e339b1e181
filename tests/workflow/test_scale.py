"""The published scale and many machines, planned and not run."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scenario", ["bios-100k", "olmo-hops"])
def test_experiments_at_the_published_scale_are_planned(check_out, tmp_path, scenario):
    planned = check_out(tmp_path).snakemake("dynamics", "--dry-run", config=f"config/paper/{scenario}.yaml").passed()
    assert "summarise_dynamics" in planned.jobs()
    first = {"bios-100k": "train_model bios-one 0", "olmo-hops": "train_model olmo-at-once 0"}[scenario]
    job = planned.text[planned.text.index("rule train_model:") :]
    assert first in planned.jobs()
    assert f"gpu={ {'bios-100k': 8, 'olmo-hops': 2}[scenario] }" in job[: job.index("mem_mib")]


def test_slurm_is_asked_for_all_nodes_of_a_training_and_one_gpu_for_what_runs_it(check_out, tmp_path):
    config = {"models": {"functions": {"gpu": 4, "nodes": 2}}}
    planned = check_out(tmp_path).snakemake(
        "results/recall/functions/seed-0.parquet", "--dry-run", "--profile", "profiles/slurm", config=config
    )
    resources = {
        rule: text[: text.index("\n\n") if "\n\n" in text else None].split("resources:")[1].splitlines()[0]
        for rule in ("train_model", "evaluate_recall")
        if (text := planned.passed().text.split(f"rule {rule}:")[1])
    }
    for wanted in ("gpu=8", "nodes=2", "tasks=2", "tasks_per_gpu=0", "mpi=srun", "mem_mb=16000"):
        assert wanted in resources["train_model"]
    assert "gpu=1" in resources["evaluate_recall"] and "mpi" not in resources["evaluate_recall"]


def test_two_processes_train_in_a_job_of_the_workflow(check_out, tmp_path):
    checkout = check_out(tmp_path)
    config = {"models": {"functions": {"processes": 2}}, "run": {"report_to": ["tensorboard", "trackio"]}}
    run = checkout.snakemake("results/models/functions/seed-0", "--cores", "2", config=config).passed()
    assert "train_model functions 0" in run.jobs()
    assert (tmp_path / "results/models/functions/seed-0/manifest.json").exists()
    assert list((tmp_path / "runs/functions-seed-0").glob("events.out.tfevents.*"))
    assert not (tmp_path / "resume/results/models/functions/seed-0").exists()
