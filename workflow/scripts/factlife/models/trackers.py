"""Trackers that training reports to beside its own tables: TensorBoard, Trackio, Weights & Biases; none uses a network."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

Send = Callable[[int, dict[str, float]], None]
Close = Callable[[], None]


def _tensorboard(folder: Path, run: str) -> tuple[Send, Close]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / run))

    def send(step: int, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)
        writer.flush()

    return send, writer.close


def _trackio(folder: Path, run: str) -> tuple[Send, Close]:
    os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))
    import trackio

    opened = trackio.init(project="factlife", name=run, resume="allow")
    return lambda step, numbers: opened.log(numbers, step=step), opened.finish


def _wandb(folder: Path, run: str) -> tuple[Send, Close]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    opened = wandb.init(project="factlife", name=run, dir=str(folder), mode="offline")
    return lambda step, numbers: opened.log(numbers, step=step), opened.finish


_OPEN = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}


class Trackers(TrainerCallback):
    """Sends every number that is logged to trackers. One that fails is left out from then on, and training goes on."""

    def __init__(self, names: Iterable[str], folder: str | Path, run: str) -> None:
        self.names, self.folder, self.run = list(names), Path(folder), run
        self.open: dict[str, tuple[Send, Close]] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open all of them, in the first of several processes."""
        if state.is_world_process_zero:
            for name in self.names:
                self._try(name, lambda name=name: self.open.update({name: _OPEN[name](self.folder, self.run)}))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict, **_: Any) -> None:
        """Send on what is a number."""
        numbers = {name: float(number) for name, number in logs.items() if isinstance(number, int | float)}
        for name, (send, _) in list(self.open.items()):
            self._try(name, lambda send=send: send(state.global_step, numbers))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close them here, where a failure is caught, and not when the process ends."""
        for name, (_send, close) in list(self.open.items()):
            self._try(name, close)

    def _try(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is: a tracker never fails a run
            self.open.pop(name, None)
            logging.warning("%s is left out, and training goes on without it: %r", name, error)
