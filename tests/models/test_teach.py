"""Several processes that share every batch learn what one process learns."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from factlife.config.models import Scratch, Training
from factlife.corpus.tokens import TOKENS
from factlife.models import Task, TrainingStopped, checkpoints, load, parameters, teach
from factlife.models.teach import command
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
        return Task(
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


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_two_processes_learn_what_one_does(task, tmp_path, optimizer):
    for name, processes in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        teach(task(tmp_path / name, optimizer=optimizer), processes=processes)

    one, two = (pd.read_csv(tmp_path / name / "curve.csv") for name in ("one", "two"))
    assert one["step"].tolist()[-1] == 46 and one["loss"].iloc[-1] < one["loss"].iloc[0] - 0.1
    assert (one["loss"] - two["loss"]).abs().max() < 1e-3
    same = ["step", "exposures", "tokens", "learning_rate"]
    pd.testing.assert_frame_equal(one[same], two[same])
    for table in ("order", "exposures"):
        tables = (pd.read_parquet(tmp_path / name / f"model/{table}.parquet") for name in ("one", "two"))
        pd.testing.assert_frame_equal(*tables)
    pairs = zip(*(checkpoints(tmp_path / name / "model") for name in ("one", "two")), strict=True)
    for (step, first), (other, second) in pairs:
        assert step == other
        weights, others = (load_file(path / "model.safetensors") for path in (first, second))
        # Muon orthogonalises in bfloat16, which makes much of the last digits of sums.
        if optimizer == "adamw":
            for name in weights:
                torch.testing.assert_close(weights[name], others[name], atol=1e-3, rtol=0)
    assert not (tmp_path / "two/resume").exists()
    assert parameters(tmp_path / "two/model") == load(tmp_path / "one/model")[0].num_parameters()


def test_a_process_that_fails_stops_all_with_its_own_message(task, tmp_path, capfd):
    with pytest.raises(TrainingStopped, match="its own message stands above"):
        teach(task(tmp_path, learning_rate=1e30, optimizer="adamw", clip=1e30), processes=2)
    assert "lower training.learning_rate" in capfd.readouterr().err
    assert not (tmp_path / "curve.csv").exists()


def test_on_several_nodes_srun_starts_one_torchrun_each(tmp_path):
    found = command(tmp_path / "task.json", 4, 2, {"SLURM_JOB_ID": "20007"})
    assert found[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    assert found[4:8] == [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=4"]
    assert found[8] == "--nnodes=2" and found[-1] == str(tmp_path / "task.json")
    assert found[11].endswith(":20007")


def test_several_nodes_need_slurm(tmp_path):
    with pytest.raises(TrainingStopped, match="`nodes` is 2, but this is no Slurm job"):
        command(tmp_path / "task.json", 1, 2, {})
