"""Trackers get what is logged, and none can stop a training."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from factlife.models.trackers import Trackers

STATE = SimpleNamespace(is_world_process_zero=True, global_step=10)


def log(names, folder, **numbers):
    trackers = Trackers(names, folder, "m-seed-0")
    trackers.on_train_begin(None, STATE, None)
    for step, loss in ((10, 3.0), (20, 2.0)):
        trackers.on_log(None, SimpleNamespace(global_step=step), None, {"loss": loss, "note": "words"} | numbers)
    trackers.on_train_end(None, STATE, None)
    return trackers


def test_tensorboard_holds_what_was_logged(tmp_path):
    log(["tensorboard"], tmp_path)
    events = EventAccumulator(str(tmp_path / "m-seed-0")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 3.0), (20, 2.0)]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_others_are_opened_without_a_network(name, tmp_path, monkeypatch):
    sent, opened = [], {}

    def init(**options):
        opened.update(options)
        return SimpleNamespace(
            log=lambda numbers, step: sent.append((step, numbers)), finish=lambda: sent.append("finished")
        )

    module = ModuleType(name)
    module.init = init
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("TRACKIO_DIR", "")
    log([name], tmp_path)
    assert sent == [(10, {"loss": 3.0}), (20, {"loss": 2.0}), "finished"]
    assert opened["name"] == "m-seed-0"
    assert name == "trackio" or (opened["mode"], opened["dir"]) == ("offline", str(tmp_path))


@pytest.mark.parametrize("broken", ["missing", "opening", "sending", "closing"])
def test_a_tracker_that_fails_is_left_out(broken, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise OSError("no space left")

    module = ModuleType("wandb")
    log_ = fail if broken == "sending" else lambda numbers, step: None
    module.init = fail if broken == "opening" else lambda **_: SimpleNamespace(log=log_, finish=fail)
    monkeypatch.setitem(sys.modules, "wandb", None if broken == "missing" else module)
    with caplog.at_level(logging.WARNING):
        found = log(["wandb", "tensorboard"], tmp_path)
    assert list(found.open) == ["tensorboard"]
    assert [record.message.split(",")[0] for record in caplog.records] == ["tracker wandb failed"]


def test_of_several_processes_only_the_first_reports(tmp_path):
    trackers = Trackers(["tensorboard"], tmp_path / "runs", "m-seed-0")
    trackers.on_train_begin(None, SimpleNamespace(is_world_process_zero=False), None)
    trackers.on_log(None, STATE, None, {"loss": 1.0})
    assert not (tmp_path / "runs").exists()
