"""Training in this process, or in several processes that split every batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

from factlife.config.training import Source, Training
from factlife.corpus import tokens
from factlife.models.checkpoints import read_final_exposures
from factlife.models.load import load_initial_model
from factlife.models.trackers import Trackers
from factlife.models.train import TrainingStopped, train_model


class TrainingTask(BaseModel):
    """Inputs, settings and outputs of one training.

    Attributes:
        source: source of the initial weights.
        start: folder of the initial model, or of the tokenizer if the weights are new.
        training: settings.
        tokens: folder of the tokenized corpus.
        seed: seed of weights and data order.
        folder: folder for the trained model.
        curve: file for the training curve.
        resume: folder for states from which a killed job resumes.
        device: device of each process.
        threads: threads of each process.
        report_to: trackers.
        run_name: name of the run in the trackers.
    """

    source: Source
    start: Path
    training: Training
    tokens: Path
    seed: int
    folder: Path
    curve: Path
    resume: Path
    device: str = "cpu"
    threads: int = 1
    report_to: list[str] = []
    run_name: str = "run"


def run_training(task: TrainingTask, *, processes: int = 1, nodes: int = 1) -> None:
    """Train a model and write its folder and training curve.

    Args:
        task: the training.
        processes: processes per node.
        nodes: nodes of the enclosing Slurm job.

    Raises:
        TrainingStopped: the loss is not finite, or one of several processes failed.
    """
    if processes * nodes == 1:
        return train_in_this_process(task)
    task_path = task.resume / "task.json"
    task_path.write_text(task.model_dump_json())
    library = str(Path(__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([library, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": str(task.threads),
    }
    if subprocess.run(launch_command(task_path, processes, nodes, environment), env=environment).returncode:
        raise TrainingStopped("one of the training processes failed; its own message is above")


def launch_command(task_path: Path, processes: int, nodes: int, environment: dict[str, str]) -> list[str]:
    """The command that starts all processes: ``torchrun``; with several nodes, ``srun`` starts it once on each.

    Raises:
        TrainingStopped: several nodes are requested outside of Slurm.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    module = ["-m", "factlife.models.worker", str(task_path)]
    if nodes == 1:
        # A free port, because several jobs may train on this machine at once.
        return [*torchrun, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *module]
    if "SLURM_JOB_ID" not in environment:
        raise TrainingStopped(
            f"the model's `nodes` is {nodes}, but this is not a Slurm job; run with --profile profiles/slurm, or set `nodes` to 1"
        )
    job_id = int(environment["SLURM_JOB_ID"])
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *torchrun,
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={job_id}",
        # This node is one of the nodes. Other jobs on it use other ports.
        f"--rdzv-endpoint={socket.gethostname()}:{20000 + job_id % 20000}",
        *module,
    ]


def train_in_this_process(task: TrainingTask) -> None:
    """Train in this process, which may be one of several started by ``torchrun``."""
    model, tokenizer = load_initial_model(task.source, task.start, seed=task.seed, device=task.device)
    settings = task.training
    curve = train_model(
        model,
        tokenizer,
        tokens.build_sequences(
            tokens.read_tokens(task.tokens), max_length=settings.max_length, packing=settings.packing
        ),
        settings,
        seed=task.seed,
        output=task.folder,
        resume=task.resume,
        initial_exposures=read_final_exposures(task.start),
        callbacks=[Trackers(task.report_to, "runs", task.run_name)] if task.report_to else [],
    )
    if int(os.environ.get("RANK", "0")) == 0:
        curve.to_csv(task.curve, index=False)
