"""One training as one task, in this process or in several that share every batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

from factlife.config.models import Source, Training
from factlife.corpus import tokens
from factlife.models.checkpoints import read_final_exposures
from factlife.models.load import load_initial_model
from factlife.models.trackers import Trackers
from factlife.models.train import TrainingStopped, train_model


class TrainingTask(BaseModel):
    """What a training starts from, what it reads, and where its results go.

    Attributes:
        source, start: where weights come from, and the folder that holds them, or the tokenizer of new ones.
        training, tokens, seed: how it goes, and on what.
        folder, curve, resume: of the finished model, its losses, and what a killed job needs.
        device, threads: of each process.
        report_to, run: trackers, and what the run is called there.
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
    """Train; afterwards the folder and the curve are written.

    Args:
        task: the training.
        processes: of each node.
        nodes: of the Slurm job that this is part of, if there are several.

    Raises:
        TrainingStopped: the loss is not finite, or one of several processes failed.
    """
    if processes * nodes == 1:
        return train_in_this_process(task)
    file = task.resume / "task.json"
    file.write_text(task.model_dump_json())
    room = str(Path(__file__).parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([room, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": str(task.threads),
    }
    if subprocess.run(launch_command(file, processes, nodes, environment), env=environment).returncode:
        raise TrainingStopped("one of the processes that trained together failed; its own message stands above")


def launch_command(task: Path, processes: int, nodes: int, environment: dict[str, str]) -> list[str]:
    """The command that starts all processes: ``torchrun``, under ``srun`` once on each of several nodes.

    Raises:
        TrainingStopped: several nodes are asked for outside of Slurm.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    module = ["-m", "factlife.models.worker", str(task)]
    if nodes == 1:
        # A free port of this machine: several jobs may train here at once.
        return [*torchrun, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", *module]
    if "SLURM_JOB_ID" not in environment:
        raise TrainingStopped(
            f"the model's `nodes` is {nodes}, but this is no Slurm job; run with --profile profiles/slurm, or set it to 1"
        )
    job = int(environment["SLURM_JOB_ID"])
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *torchrun,
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={job}",
        # The node that this runs on is one of them. Other jobs on it have other ports.
        f"--rdzv-endpoint={socket.gethostname()}:{20000 + job % 20000}",
        *module,
    ]


def train_in_this_process(task: TrainingTask) -> None:
    """Train in this process, which may be one of several that ``torchrun`` started."""
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
