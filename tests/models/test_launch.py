"""Several processes that share every batch learn what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from factlife.config.training import Scratch, Training
from factlife.corpus.tokens import TOKENS
from factlife.models import TrainingStopped, TrainingTask, count_parameters, list_checkpoints, load_model, run_training
from factlife.models.launch import launch_command
from factlife.world.tables import write_table


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Makes a training of 183 sequences in batches of 4, the last one of 3, as a folder's task."""
    given = tmp_path_factory.mktemp("given")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", *"abcdefghij"])}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(given / "tokenizer")
    rng = np.random.default_rng(0)
    tokens = pd.DataFrame(
        {
            "doc_id": [f"d{number}" for number in range(61)],
            "fact_ids": [[f"p{number % 5}.city"] for number in range(61)],
            "entity_ids": [[f"p{number % 5}"] for number in range(61)],
            # Of very different lengths: a mean over processes is then not the mean over tokens.
            "input_ids": [rng.integers(1, 11, rng.integers(2, 20)).tolist() for _ in range(61)],
        }
    )
    write_table(tokens, given / "tokens.parquet", TOKENS)

    def make(folder, **changed):
        (folder / "resume").mkdir()
        return TrainingTask(
            source=Scratch(
                kind="scratch",
                architecture="LlamaForCausalLM",
                config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24},
            ),
            start=given / "tokenizer",
            training=Training(corpus="x", epochs=3, batch_size=4, checkpoints=3, **changed),
            tokens=given,
            seed=0,
            folder=folder / "model",
            curve=folder / "curve.csv",
            resume=folder / "resume",
        )

    return make


@pytest.fixture(scope="module", params=["muon", "adamw"])
def learned(request, task, tmp_path_factory):
    """An optimizer, and a folder with what one process and two learned with it."""
    folder = tmp_path_factory.mktemp(request.param)
    for name, processes in (("one", 1), ("two", 2)):
        (folder / name).mkdir()
        run_training(task(folder / name, optimizer=request.param), processes=processes)
    return request.param, folder


def test_two_processes_learn_what_one_does(learned):
    optimizer, tmp_path = learned
    one, two = (pd.read_csv(tmp_path / name / "curve.csv") for name in ("one", "two"))
    assert one["step"].tolist()[-1] == 46 and one["loss"].iloc[-1] < one["loss"].iloc[0] - 0.1
    assert (one["loss"] - two["loss"]).abs().max() < 1e-3
    same = ["step", "exposures", "tokens", "learning_rate"]
    pd.testing.assert_frame_equal(one[same], two[same])
    for table in ("order", "exposures"):
        tables = (pd.read_parquet(tmp_path / name / f"model/{table}.parquet") for name in ("one", "two"))
        pd.testing.assert_frame_equal(*tables)
    pairs = zip(*(list_checkpoints(tmp_path / name / "model") for name in ("one", "two")), strict=True)
    for (step, first), (other, second) in pairs:
        assert step == other
        weights, others = (load_file(path / "model.safetensors") for path in (first, second))
        # Muon orthogonalises in bfloat16, which makes much of the last digits of sums.
        if optimizer == "adamw":
            for name in weights:
                torch.testing.assert_close(weights[name], others[name], atol=1e-3, rtol=0)
    assert not (tmp_path / "two/resume").exists()
    assert count_parameters(tmp_path / "two/model") == load_model(tmp_path / "one/model")[0].num_parameters()


KILLED = """
import os, signal, sys
from factlife.models import worker
from factlife.models.train import _CheckpointCallback

ended = _CheckpointCallback.on_step_end

def on_step_end(self, args, state, *rest, **more):
    ended(self, args, state, *rest, **more)
    if state.global_step == 30 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)

_CheckpointCallback.on_step_end = on_step_end
worker.main(sys.argv[1])
"""


@pytest.mark.parametrize("learned", ["muon"], indirect=True)
def test_two_processes_of_which_one_was_killed_resume_to_the_same_weights(learned, task, tmp_path, capfd):
    optimizer, before = learned
    work = task(tmp_path, optimizer=optimizer, save_steps=10)
    (tmp_path / "killed.py").write_text(KILLED)
    (file := tmp_path / "task.json").write_text(work.model_dump_json())
    *torchrun, _, _, _ = launch_command(file, 2, 1, {})
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2] / "workflow/scripts"),
        "OMP_NUM_THREADS": "1",
    }
    assert subprocess.run([*torchrun, tmp_path / "killed.py", file], env=environment).returncode
    # Saved every 12 steps, where losses are logged, and the last state alone is kept.
    states = tmp_path.glob("resume/trainer/checkpoint-*/trainer_state.json")
    assert [json.loads(path.read_text())["global_step"] for path in states] == [24]
    assert not (tmp_path / "model").exists()

    run_training(work, processes=2)
    assert "resuming from checkpoint-24" in capfd.readouterr().err
    same = ["step", "exposures", "tokens", "loss", "learning_rate"]
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "curve.csv")[same], pd.read_csv(before / "two/curve.csv")[same]
    )
    pairs = zip(list_checkpoints(tmp_path / "model"), list_checkpoints(before / "two/model"), strict=True)
    for (step, resumed), (other, whole) in pairs:
        assert step == other
        weights, others = (load_file(path / "model.safetensors") for path in (resumed, whole))
        assert all(torch.equal(weights[name], others[name]) for name in others)


def test_a_process_that_fails_stops_all_with_its_own_message(task, tmp_path, capfd):
    with pytest.raises(TrainingStopped, match="its own message is above"):
        run_training(task(tmp_path, learning_rate=1e30, optimizer="adamw", max_grad_norm=1e30), processes=2)
    assert "lower training.learning_rate" in capfd.readouterr().err
    assert not (tmp_path / "curve.csv").exists()


def test_on_several_nodes_srun_starts_one_torchrun_each(tmp_path):
    found = launch_command(tmp_path / "task.json", 4, 2, {"SLURM_JOB_ID": "20007"})
    assert found[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert found[4:8] == [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=4"]
    assert found[8] == "--nnodes=2" and found[-1] == str(tmp_path / "task.json")
    assert found[11].endswith(":20007")


def test_several_nodes_need_slurm(tmp_path):
    with pytest.raises(TrainingStopped, match="`nodes` is 2, but this is not a Slurm job"):
        launch_command(tmp_path / "task.json", 1, 2, {})
