"""Training: in a known order, resumable to the same weights, with exposures that are counted and not guessed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from factlife.config.training import Scratch, Training
from factlife.corpus.tokens import build_sequences
from factlife.models import (
    TrainingStopped,
    initialize_model,
    list_checkpoints,
    load_model,
    prepare_resume_folder,
    read_exposures,
    read_final_exposures,
    train_model,
)
from factlife.models.optim import MuonWithAdamW, build_optimizer, learning_rate_factor
from factlife.models.train import (
    IGNORE_INDEX,
    PaddingCollator,
    checkpoint_steps,
    data_order,
    fact_occurrences,
    mean_exposures,
)

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
# With dropout, so that resuming has to take up the random numbers too.
SOURCES = {
    "muon": Scratch(kind="scratch", architecture="LlamaForCausalLM", config=SMALL),
    "adamw": Scratch(
        kind="scratch", architecture="GPT2LMHeadModel", config={"n_embd": 16, "n_layer": 1, "n_head": 2, "n_inner": 24}
    ),
}
# Adapters go the same way as optimizers do below.
SOURCES["dora"] = SOURCES["muon"]
SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


def make_tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<pad>", *"abcdefghij"])}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")


def make_tokens(documents=60, seed=0):
    """Documents of two to nine tokens that state none to two of eight facts about four people."""
    rng = np.random.default_rng(seed)
    people = [sorted({f"p{rng.integers(4)}" for _ in range(rng.integers(1, 3))}) for _ in range(documents)]
    return pd.DataFrame(
        {
            "doc_id": [f"d{number}" for number in range(documents)],
            "fact_ids": [
                [f"{person}.{rng.choice(['city', 'job'])}" for person in who if rng.random() < 0.8] for who in people
            ],
            "entity_ids": people,
            "input_ids": [rng.integers(1, 11, rng.integers(2, 10)).tolist() for _ in range(documents)],
        }
    )


def settings(**changed):
    return Training(corpus="x", **{"epochs": 3, "batch_size": 4, "save_steps": 10, "checkpoints": 4} | changed)


def run(folder, optimizer="muon", packing=0, documents=60, **changed):
    """Train a tiny model into ``folder/model``; its curve."""
    torch.set_num_threads(1)
    tokenizer = make_tokenizer()
    return train_model(
        initialize_model(SOURCES[optimizer], tokenizer, seed=0),
        tokenizer,
        build_sequences(make_tokens(documents), max_length=32, packing=packing),
        settings(
            **({"method": "dora", "optimizer": "adamw"} if optimizer == "dora" else {"optimizer": optimizer}), **changed
        ),
        seed=0,
        output=folder / "model",
        resume=folder / "resume",
    )


@pytest.fixture(scope="module", params=SOURCES)
def trained(request, tmp_path_factory):
    """A model trained without interruption: its optimizer, folder and curve."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, run(folder, request.param)


# Order


@pytest.mark.parametrize(("count", "batch"), [(60, 4), (61, 4), (3, 8), (300, 7)])
def test_every_sequence_is_visited_once_an_epoch(count, batch):
    lengths = np.random.default_rng(0).integers(1, 50, count)
    order = data_order(lengths, settings(epochs=3, batch_size=batch), seed=5)
    epochs = order.reshape(3, count)
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert (order == data_order(lengths, settings(epochs=3, batch_size=batch), seed=5)).all()
    if count > batch:
        assert (epochs[0] != epochs[1]).any()
        assert (order != data_order(lengths, settings(epochs=3, batch_size=batch), seed=6)).any()


def test_batches_hold_sequences_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 50, 1024)
    batches = lengths[data_order(lengths, settings(epochs=1, batch_size=16), seed=0)].reshape(-1, 16)
    padding = 1 - lengths.sum() / (batches.max(1) * 16).sum()
    shuffled = np.random.default_rng(0).permutation(lengths).reshape(-1, 16)
    assert padding < 0.4 * (1 - lengths.sum() / (shuffled.max(1) * 16).sum())


@pytest.mark.parametrize("group_by_length", [True, False])
def test_tokens_of_short_sequences_weigh_more_only_in_batches_by_length(group_by_length):
    lengths = np.random.default_rng(0).permutation(np.repeat([10, 60], 512))

    order = data_order(lengths, settings(epochs=2, batch_size=32, group_by_length=group_by_length), seed=0)

    assert (np.bincount(order) == 2).all()
    batches = lengths[order].reshape(-1, 32)
    # The loss is the mean over a batch's tokens: a token weighs one over their number.
    weight = np.repeat(1 / batches.sum(1), 32)
    short, long = (weight[lengths[order] == length].mean() for length in (10, 60))
    assert short / long > 4 if group_by_length else 0.95 < short / long < 1.1


def test_padding_is_not_predicted():
    batch = PaddingCollator(pad=3)([np.array([1, 2]), [4, 5, 6, 3]])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 3], [4, 5, 6, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[1, 2, IGNORE_INDEX, IGNORE_INDEX], [4, 5, 6, 3]]


# Exposures and checkpoints


def test_exposures_are_those_of_the_documents_that_were_read(trained):
    _, folder, curve = trained
    order = pd.read_parquet(folder / "model/order.parquet")
    stated = make_tokens().set_index("doc_id")["fact_ids"]
    found = read_exposures(folder / "model").set_index(["step", "fact_id"])["exposures"]

    assert order["doc_ids"].str[0].value_counts().eq(3).all() and len(order) == 180
    assert order["step"].tolist() == [1 + number // 4 for number in range(180)]
    facts = sorted({fact for facts in stated for fact in facts})
    steps = sorted(found.index.unique("step"))
    for step in steps:
        read = order.loc[order["step"] <= step, "doc_ids"].explode()
        counts = Counter(fact for document in read for fact in stated[document])
        assert found[step].to_dict() == {fact: counts[fact] for fact in facts}
    read = np.array([len(make_tokens()["input_ids"][int(ids[0][1:])]) for ids in order["doc_ids"]])
    assert curve["tokens"].tolist() == [read[: 4 * step].sum() for step in curve["step"]]
    assert curve["exposures"].iloc[-1] == pytest.approx(found[steps[-1]].mean())


def test_checkpoints_halve_and_the_last_is_the_finished_model(trained):
    _, folder, _ = trained
    saved = dict(list_checkpoints(folder / "model"))
    means = read_exposures(folder / "model").groupby("step")["exposures"].mean()
    assert list(saved) == means.index.tolist()
    assert (means.index[0], means.index[-1]) == (0, 45)
    np.testing.assert_allclose(means.iloc[1:], means.iloc[-1] / 2.0 ** np.arange(2, -1, -1), atol=1)
    last, end = (load_file(path / "model.safetensors") for path in (saved[45], folder / "model"))
    first = load_file(saved[0] / "model.safetensors")
    assert all(torch.equal(last[name], end[name]) for name in end)
    assert any(not torch.equal(last[name], first[name]) for name in end)
    for path in saved.values():
        load_model(path)


def test_checkpoint_steps():
    assert checkpoint_steps(np.arange(101.0), 5) == [0, 13, 25, 50, 100]
    assert checkpoint_steps(np.arange(101.0), 1) == [0, 100]
    assert checkpoint_steps(np.arange(1001.0), 4, factor=10) == [0, 10, 100, 1000]
    # Facts are stated in the first ten steps only.
    assert checkpoint_steps(np.minimum(np.arange(41.0), 10), 3) == [0, 5, 10, 40]
    # No facts at all: steps halve.
    nothing = mean_exposures(fact_occurrences([[], [], [], []], 1), 4)
    assert checkpoint_steps(nothing, 3) == [0, 2, 4]


@pytest.mark.parametrize("packing", [12, 40])
def test_packing_never_changes_exposures(trained, tmp_path, packing):
    _, folder, _ = trained
    run(tmp_path, packing=packing, epochs=3)
    for one in (folder, tmp_path):
        table = read_exposures(one / "model")
        last = table[table["step"] == table["step"].max()].set_index("fact_id")["exposures"]
        expected = 3 * make_tokens()["fact_ids"].explode().value_counts()
        assert last.to_dict() == expected.to_dict()


def test_a_corpus_without_facts_trains(tmp_path):
    tokenizer = make_tokenizer()
    tokens = make_tokens().assign(fact_ids=[[]] * 60)
    train_model(
        initialize_model(SOURCES["muon"], tokenizer, seed=0), tokenizer, build_sequences(tokens, max_length=9), settings(epochs=1),
        seed=0, output=tmp_path / "model", resume=tmp_path / "resume",
    )  # fmt: skip
    assert read_exposures(tmp_path / "model").empty
    assert [step for step, _ in list_checkpoints(tmp_path / "model")] == [0, 4, 8, 15]


# Resuming


def be_killed(folder, optimizer, moment):
    """Train until killed: at a step after a state, or while a state is written."""
    from transformers import Trainer

    module = sys.modules["factlife.models.train"]

    def kill(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "step":
        kept = module._CheckpointCallback.on_step_end
        module._CheckpointCallback.on_step_end = lambda self, args, state, control, **more: (
            kill() if state.global_step == 27 else kept(self, args, state, control, **more)
        )
    else:
        saved = Trainer._save_rng_state
        Trainer._save_rng_state = lambda self, path: kill() if self.state.global_step == 36 else saved(self, path)
    run(Path(folder), optimizer)


KILLED = "import runpy, sys; runpy.run_path(sys.argv[1])['be_killed'](*sys.argv[2:])"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["step", "state"])
def test_killed_job_resumes_to_the_same_result(trained, tmp_path, moment):
    optimizer, folder, curve = trained
    done = subprocess.run(
        [sys.executable, "-c", KILLED, __file__, tmp_path, optimizer, moment],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "model").exists()
    states = sorted(path.name for path in tmp_path.glob("resume/trainer/checkpoint-*"))
    assert states == (["checkpoint-24"] if moment == "step" else ["checkpoint-24", "checkpoint-36"])
    assert not (tmp_path / "resume/trainer/checkpoint-36/trainer_state.json").exists()

    resumed = run(tmp_path, optimizer)

    loss = ["step", "exposures", "tokens", "loss", "learning_rate"]
    pd.testing.assert_frame_equal(resumed[loss], curve[loss], check_exact=True)
    assert resumed["seconds"].is_monotonic_increasing
    for (step, one), (other_step, other) in zip(
        list_checkpoints(folder / "model"), list_checkpoints(tmp_path / "model"), strict=True
    ):
        assert step == other_step
        weights, others = (load_file(path / "model.safetensors") for path in (one, other))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    for table in ("order", "exposures"):
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(one / "model" / f"{table}.parquet") for one in (folder, tmp_path))
        )


def test_nothing_to_resume_from_is_left(trained):
    _, folder, curve = trained
    assert not (folder / "resume").exists()
    assert curve["step"].tolist() == [*range(4, 45, 4), 45]
    assert (curve["loss"] < 1.2 * math.log(11)).all()


def test_a_state_of_other_settings_is_thrown_away(tmp_path):
    folder = prepare_resume_folder(tmp_path / "resume/model/seed-0", {"seed": 0, "inputs": {"b": 1, "a": 2}})
    (folder / "state").write_text("x")
    assert (prepare_resume_folder(folder, {"inputs": {"a": 2, "b": 1}, "seed": 0}) / "state").exists()
    assert not (prepare_resume_folder(folder, {"seed": 1}) / "state").exists()
    (folder / "state").write_text("x")
    (folder / "fingerprint.json").unlink()
    assert not (prepare_resume_folder(folder, {"seed": 1}) / "state").exists()
    assert json.loads((folder / "fingerprint.json").read_text()) == {"seed": 1}


@pytest.mark.parametrize("documents", [12, 48])
def test_a_loss_that_is_not_finite_stops(tmp_path, documents):
    """Also in fewer steps than lie between two logged losses; and no state is left from which to go on."""
    message = r"the loss is (nan|inf) at step \d+: lower training.learning_rate or .*raise training.warmup_fraction"
    with pytest.raises(TrainingStopped, match=message):
        run(tmp_path, optimizer="adamw", documents=documents, epochs=1, learning_rate=1e30, warmup_fraction=0)
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob("resume/trainer/checkpoint-*"))


# Going on


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapters_change_every_linear_layer_and_nothing_else(tmp_path, method):
    tokenizer, start = make_tokenizer(), initialize_model(SOURCES["muon"], make_tokenizer(), seed=0)
    before = {name: weight.clone() for name, weight in start.state_dict().items()}
    train_model(
        start, tokenizer, build_sequences(make_tokens(), max_length=9), settings(method=method, r=2, optimizer="adamw"),
        seed=0, output=tmp_path / "model", resume=tmp_path / "resume",
    )  # fmt: skip
    after = load_model(tmp_path / "model")[0].state_dict()
    first = load_model(list_checkpoints(tmp_path / "model")[0][1])[0].state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(first[name], weight)
        if not name.endswith("_proj.weight"):
            assert torch.equal(after[name], weight), name
        elif method == "lora":
            # Of no higher rank than the adapter.
            change = torch.linalg.svdvals(after[name] - weight)
            assert change[1] > 1e-3 and change[2] < 1e-5, name
        else:
            assert not torch.equal(after[name], weight), name


def test_exposures_go_on_from_those_before(tmp_path):
    run(tmp_path / "first", epochs=2)
    before = read_final_exposures(tmp_path / "first/model")
    more = before.drop(before.index[0])
    more["p9.city"] = 7
    tokenizer = make_tokenizer()
    train_model(
        load_model(tmp_path / "first/model")[0], tokenizer, build_sequences(make_tokens(), max_length=32), settings(epochs=1),
        seed=0, output=tmp_path / "model", resume=tmp_path / "resume", initial_exposures=more,
    )  # fmt: skip
    found = read_exposures(tmp_path / "model").set_index(["step", "fact_id"])["exposures"]
    once = make_tokens()["fact_ids"].explode().value_counts()
    assert found[0].to_dict() == {fact: more.get(fact, 0) for fact in {*once.index, "p9.city"}}
    assert found[15].to_dict() == {fact: more.get(fact, 0) + once.get(fact, 0) for fact in {*once.index, "p9.city"}}


def test_the_first_checkpoint_of_what_goes_on_is_where_it_began(trained, tmp_path):
    _, folder, _ = trained
    tokenizer = make_tokenizer()
    train_model(
        load_model(folder / "model")[0], tokenizer, build_sequences(make_tokens(seed=1), max_length=32), settings(epochs=1),
        seed=0, output=tmp_path / "model", resume=tmp_path / "resume",
    )  # fmt: skip
    end, begin = (
        load_file(path / "model.safetensors") for path in (folder / "model", list_checkpoints(tmp_path / "model")[0][1])
    )
    assert end.keys() == begin.keys() and all(torch.equal(end[name], begin[name]) for name in end)


# Optimizers


def test_rate_rises_stays_and_falls():
    shares = [learning_rate_factor(step, 100, settings(warmup_fraction=0.1, decay_fraction=0.5)) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10:50] == [1.0] * 40
    assert shares[50:] == pytest.approx([(100 - step) / 50 for step in range(50, 100)])
    assert [learning_rate_factor(step, 10, settings(warmup_fraction=0, decay_fraction=0)) for step in range(10)] == [
        1.0
    ] * 10


def test_muon_takes_the_matrices_inside_the_blocks_and_adamw_the_rest():
    model = initialize_model(SOURCES["muon"], make_tokenizer(), seed=0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, adamw = build_optimizer(model, settings(weight_decay=0.1)).parts
    matrices, (tables, vectors) = muon.param_groups[0], adamw.param_groups
    assert all("proj" in names[id(parameter)] for parameter in matrices["params"]) and len(matrices["params"]) == 7
    assert {names[id(parameter)] for parameter in tables["params"]} == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all("norm" in names[id(parameter)] for parameter in vectors["params"])
    assert sum(len(group["params"]) for group in (matrices, tables, vectors)) == len(names)
    assert (matrices["weight_decay"], tables["weight_decay"], vectors["weight_decay"]) == (0.1, 0.1, 0)
    everything = build_optimizer(model, settings(optimizer="adamw"))
    assert isinstance(everything, torch.optim.AdamW)
    assert sum(len(group["params"]) for group in everything.param_groups) == len(names)


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(6, 4), (9, 6), (6,)]]


def pair(matrix, table, vector):
    muon = torch.optim.Muon([matrix], lr=0.02, weight_decay=0.01)
    return muon, torch.optim.AdamW([{"params": [table]}, {"params": [vector], "weight_decay": 0.0}], lr=0.01)


def step(weights, schedules, optimizers, number):
    generator = torch.Generator().manual_seed(number)
    for parameter in weights:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for one in optimizers:
        one.step()
        one.zero_grad()
    for schedule in schedules:
        schedule.step()


def schedule(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: 1 / (1 + number))


def test_two_optimizers_in_one_step_as_they_do_apart_also_after_saving(tmp_path):
    apart, together, again = parameters(), parameters(), parameters()
    parts = pair(*apart)
    one = MuonWithAdamW(*pair(*together))
    schedules, joint = [schedule(part) for part in parts], schedule(one)
    for number in range(3):
        step(apart, schedules, parts, number)
        step(together, [joint], [one], number)

    torch.save([one.state_dict(), joint.state_dict(), [weight.detach() for weight in together]], tmp_path / "state")
    state, schedule_state, weights = torch.load(tmp_path / "state", weights_only=True)
    other = MuonWithAdamW(*pair(*again))
    other_joint = schedule(other)
    with torch.no_grad():
        for parameter, weight in zip(again, weights, strict=True):
            parameter.copy_(weight)
    other.load_state_dict(state)
    other_joint.load_state_dict(schedule_state)
    for number in range(3, 6):
        step(apart, schedules, parts, number)
        step(together, [joint], [one], number)
        step(again, [other_joint], [other], number)

    for expected, found, resumed in zip(apart, together, again, strict=True):
        assert found.grad is None
        assert torch.equal(found, expected) and torch.equal(resumed, expected)
    assert [group["lr"] for group in other.param_groups] == [group["lr"] for group in one.param_groups]
