"""One process of a training that ``torchrun`` started. Its only argument is the task's file."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import torch

from factlife.models.launch import TrainingTask, train_in_this_process


def main(path: str) -> None:
    """Train together with the other processes; on a GPU machine, each process uses the GPU of its local rank."""
    is_first = os.environ["RANK"] == "0"
    logging.basicConfig(
        level=logging.INFO if is_first else logging.ERROR, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr
    )
    task = TrainingTask.model_validate_json(Path(path).read_text())
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    if task.device == "cuda":
        task.device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        train_in_this_process(task)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
