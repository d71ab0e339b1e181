"""Reports of training metrics to TensorBoard, Trackio and Weights & Biases, all offline."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

Send = Callable[[int, dict[str, float]], None]
Close = Callable[[], None]


def _tensorboard(folder: Path, run: str) -> tuple[Send, Close]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / run))

    def send(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return send, writer.close


def _trackio(folder: Path, run: str) -> tuple[Send, Close]:
    os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))
    import trackio

    run_ = trackio.init(project="factlife", name=run, resume="allow")
    return lambda step, metrics: run_.log(metrics, step=step), run_.finish


def _wandb(folder: Path, run: str) -> tuple[Send, Close]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run_ = wandb.init(project="factlife", name=run, dir=str(folder), mode="offline")
    return lambda step, metrics: run_.log(metrics, step=step), run_.finish


_OPEN = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}


class Trackers(TrainerCallback):
    """Sends logged metrics to trackers. A tracker that fails is dropped, and training goes on."""

    def __init__(self, names: Iterable[str], folder: str | Path, run: str) -> None:
        self.names, self.folder, self.run = list(names), Path(folder), run
        self.open: dict[str, tuple[Send, Close]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open all trackers, in the main process only."""
        if state.is_world_process_zero:
            for name in self.names:
                self._try(name, partial(self._start, name))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict, **_: Any) -> None:
        """Send all numeric metrics."""
        metrics = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
        for name, (send, _close) in list(self.open.items()):
            self._try(name, partial(send, state.global_step, metrics))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the trackers now, so that a failure is caught, and not when the process ends."""
        for name, (_send, close) in list(self.open.items()):
            self._try(name, close)

    def _start(self, name: str) -> None:
        self.open[name] = _OPEN[name](self.folder, self.run)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a tracker never fails a run
            self.open.pop(name, None)
            logging.warning("tracker %s failed, training goes on without it: %r", name, error)
