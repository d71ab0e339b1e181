"""Two generations of a tiny model: what their folders hold, and that a killed one goes on to the same result."""

from __future__ import annotations

import importlib

import numpy as np
import pandas as pd
import pytest
import torch

from factlife import models, world
from factlife.collapse import GenerationKey, evaluation, generation, mixing, sampling, summarise_generations
from factlife.config.collapse import CollapseArm, Sampler
from factlife.config.corpora import PeopleCorpus, ProseCorpus
from factlife.config.corpora import Tokenizer as Settings
from factlife.config.training import Scratch
from factlife.config.worlds import PeopleWorld
from factlife.corpus import people
from factlife.corpus.documents import Document, documents_table
from factlife.corpus.tokenizers import train_tokenizer
from factlife.recall.perplexity import text_losses

CORPUS = PeopleCorpus(kind="people", world="w", statements_per_fact=2)
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ARM = CollapseArm(
    documents=24,
    samples=24,
    held_out_documents=8,
    training={"corpus": "people", "batch_size": 8},
    sampler={"max_new_tokens": 40},
)


@pytest.fixture(scope="module")
def made():
    return world.build_world(PeopleWorld(kind="people", people=12, unseen=2, values=6, regions=0, panel=2))


@pytest.fixture(scope="module")
def documents(made):
    return people.render_documents(made, CORPUS)


@pytest.fixture(scope="module")
def base(made, documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(Settings(kind="word", corpus="x"), documents["text"], made)
    settings = Scratch(kind="scratch", architecture="LlamaForCausalLM", config=SIZES)
    models.save_model(models.initialize_model(settings, tokenizer, 0), tokenizer, folder)
    return folder


@pytest.fixture
def run(made, documents, base, tmp_path):
    def run(number, arm=ARM, name="chain", **changes):
        folder = tmp_path / name / f"{number}"
        inputs = {
            "base": base, "previous": [tmp_path / name / f"{one}" for one in range(number)], "documents": documents,
            "corpus": CORPUS, "world": made, "output": folder, "resume": tmp_path / name / f"resume-{number}",
            "batch_tokens": 4096,
        }  # fmt: skip
        generation.train_generation(arm, number, 0, **inputs | changes)
        return folder

    return run


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("count", [5, 14])
def test_no_more_facts_are_asked_than_wanted_and_those_of_the_panel_come_first(run, made, count):
    folder = run(0, ARM.model_copy(update={"probed_facts": count}))

    recalled = set(pd.read_parquet(folder / "recall.parquet")["fact_id"])
    shown = set(pd.read_parquet(folder / "formats.parquet")["fact_id"])
    panel = set(made.facts["fact_id"][made.facts["panel"]])
    assert len(panel) == 12
    assert len(recalled) == count
    assert shown == recalled & panel
    assert len(shown) == min(count, 12)


def test_generation_0_is_the_model_as_it_came(run, base):
    folder = run(0)

    assert models.hash_weights(folder / "model") == models.hash_weights(base)
    assert not (folder / "corpus.parquet").exists()
    assert len(pd.read_parquet(folder / "samples.parquet")) == len(pd.read_parquet(folder / "real.parquet")) == 24
    assert (
        pd.read_parquet(folder / "real.parquet")[["sentences", "parsed_sentences"]]
        .diff(axis=1)["parsed_sentences"]
        .eq(0)
        .all()
    )
    # Real text states nothing false; what a model with random weights says is counted as the statements have it.
    assert pd.read_parquet(folder / "real.parquet")["false_statements"].eq(0).all()
    statements = pd.read_parquet(folder / "statements.parquet").query("source == 'synthetic'")
    wrong = pd.read_parquet(folder / "samples.parquet")["false_statements"].sum()
    assert wrong == (statements["verdict"] == "false").sum()


def test_the_headline_says_what_the_tables_say(run):
    folder = run(0)

    recall, held_out = (pd.read_parquet(folder / f"{name}.parquet") for name in ("recall", "held_out"))
    known = recall.loc[recall["kind"] == "forward", "exact_match"].mean()
    surprise = np.exp(held_out["nats"].sum() / held_out["tokens"].sum())
    expected = f"recall {known:.3f}, perplexity of real text {surprise:.2f}, empty texts 0.0%"
    assert generation.summary_line(folder) == expected


def test_each_generation_learns_what_the_one_before_wrote(run, base):
    first, second = run(0), run(1)

    learnt, written = pd.read_parquet(second / "corpus.parquet"), pd.read_parquet(first / "samples.parquet")
    assert learnt["text"].tolist() == written["text"][written["text"].str.strip() != ""].tolist()
    assert models.hash_weights(second / "model") != models.hash_weights(base)


def test_a_control_is_summarised_with_its_arm(run, made, tmp_path):
    chain = {GenerationKey("m", "replace", 0, number): run(number) for number in (0, 1)}

    table = summarise_generations(chain, {"m": made}, {"m": {"replace": ARM}}, resamples=20)

    assert set(table["model"]) == {"m"}
    assert not table.duplicated(["model", "arm", "seed", "generation", "group", "metric"]).any()
    assert {"recall", "perplexity", "coverage", "generative_perplexity"} <= set(table["metric"])
    inside = table.dropna(subset=["ci_low"])
    assert (inside["ci_low"] <= inside["estimate"] + 1e-9).all()
    assert (inside["estimate"] <= inside["ci_high"] + 1e-9).all()


def test_fluency_is_judged_by_the_model_that_is_named_or_by_generation_0(run, base, tmp_path):
    model, tokenizer = models.load_model(base)
    torch.nn.init.normal_(model.get_input_embeddings().weight, generator=torch.Generator().manual_seed(1))
    models.save_model(model, tokenizer, tmp_path / "judge")

    for judge, named in ((base, {}), (tmp_path / "judge", {"perplexity_model": tmp_path / "judge"})):
        run(0, name=judge.name, **named)
        texts = pd.read_parquet(run(1, name=judge.name, **named) / "samples.parquet")
        expected = text_losses(*models.load_model(judge), texts["text"].tolist())
        assert texts["perplexity_nats"].to_numpy() == pytest.approx(expected["nats"].to_numpy())


@pytest.mark.parametrize(("module", "step"), [(sampling, "sample_texts"), (evaluation, "score_probes")])
def test_a_killed_generation_goes_on_to_the_same_files(run, monkeypatch, module, step):
    run(0), run(0, name="killed")
    whole = run(1)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, step, die)
        run(1, name="killed")
    # Neither what was learnt nor, once it is there, what was written is made again.
    monkeypatch.setattr(models, "train_model", die)
    if step == "score_probes":
        monkeypatch.setattr(sampling, "sample_texts", die)
    resumed = run(1, name="killed")

    assert contents(resumed) == contents(whole)


def test_a_generation_killed_while_it_wrote_its_model_goes_on_to_the_same_files(run, monkeypatch):
    run(0), run(0, name="killed")
    whole = run(1)
    # By name: the room calls its function as it calls the module.
    training = importlib.import_module("factlife.models.train")
    linked = training.link_files

    def die_after(source, target):
        linked(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "link_files", die_after)
        run(1, name="killed")

    assert contents(run(1, name="killed")) == contents(whole)


def test_a_model_that_writes_nothing_is_a_result(run, base, made, tmp_path):
    model, tokenizer = models.load_model(base)
    head = model.get_output_embeddings()
    # It can only end: every other token is less likely whatever the state.
    head.bias = torch.nn.Parameter(head.weight.new_full((head.weight.shape[0],), -1e4))
    head.bias.data[tokenizer.eos_token_id] = 1e4
    real = pd.DataFrame({"text": ["x"] * 24})

    written = sampling.generate_samples(ARM.sampler, model, tokenizer, real, 0, 0)

    assert (written["text"] == "").all()
    assert written["ends_with_eos"].all()
    measured = evaluation.measure_texts(written, (model, tokenizer), lambda texts: np.full(len(texts), np.nan), None)
    assert measured["words"].eq(0).all()


def test_held_out_text_is_the_corpus_own_or_new_renderings(made, documents):
    fresh = evaluation.held_out_texts(documents, CORPUS, made, 20)
    assert len(fresh) == 20
    assert not set(fresh) & set(documents["text"])

    kept = documents_table([Document("a", "prose"), Document("b", "prose", split="held_out")])
    assert evaluation.held_out_texts(kept, ProseCorpus(kind="prose"), made, 30) == ["b"]


def test_blocks_hold_all_text_once_and_end_nowhere(documents, base):
    _, tokenizer = models.load_model(base)

    blocks = mixing.real_texts(documents, tokenizer, 16)

    assert not blocks["ends_with_eos"].any()
    assert {len(ids) for ids in tokenizer(blocks["text"].tolist(), add_special_tokens=False)["input_ids"]} == {16}
    whole = " ".join(documents["text"]).split()
    assert " ".join(blocks["text"]).split() == whole[: 16 * (len(whole) // 16)]


def test_a_text_goes_on_from_the_beginning_of_a_real_one(base, documents):
    model, tokenizer = models.load_model(base)
    real = pd.DataFrame({"text": documents["text"].head(5)})
    begun = [" ".join(text.split()[:4]) for text in real["text"]]

    kept, only = (
        sampling.generate_samples(
            Sampler(prompt_tokens=4, max_new_tokens=6, keep_prompt=keep), model, tokenizer, real, 0, 0,
        )
        for keep in (True, False)
    )  # fmt: skip

    assert kept["prompt"].tolist() == only["prompt"].tolist() == begun
    assert (only["prompt"] + " " + only["text"]).str.strip().tolist() == kept["text"].tolist()


def test_chat_prompts_go_through_the_template_once(base, documents):
    _, tokenizer = models.load_model(base)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }} . {% endfor %}{% if add_generation_prompt %}Answer :{% endif %}"
    sampler = Sampler(prompt_tokens=3, max_new_tokens=4, chat_instruction="Question")

    prompt = sampling._prompt(documents["text"][0], tokenizer, sampler)

    assert prompt.count(tokenizer.bos_token_id) == 1
    said = " ".join(documents["text"][0].split()[:3])
    assert tokenizer.decode(prompt, skip_special_tokens=True) == f"Question {said} . Answer :"
