"""Graded corruptions, the classifier that they train, and a public one whose labels have an order of their own."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

from factlife import world
from factlife.collapse import gibberish
from factlife.collapse.gibberish import GibberishError, corrupt_text
from factlife.config.corpora import PeopleCorpus
from factlife.config.worlds import PeopleWorld
from factlife.corpus import people


@pytest.fixture(scope="module")
def texts():
    made = world.build_world(PeopleWorld(kind="people", people=30, values=8, regions=0, panel=2))
    return people.render_documents(made, PeopleCorpus(kind="people", world="w", statements_per_fact=6, qa_per_fact=0))[
        "text"
    ].tolist()


@pytest.fixture(scope="module")
def detector(texts):
    return gibberish.train_detector(texts)


def test_corruptions_keep_what_their_level_keeps():
    rng, text = random.Random(0), "one two three four five six seven eight nine ten"

    noise, salad, mild, clean = (corrupt_text(text, level, ["other"], rng) for level in range(4))

    assert clean == text
    assert sorted(salad.split()) == sorted(text.split()) and salad != text
    assert sorted(noise.replace(" ", "")) == sorted(text.replace(" ", ""))
    assert [len(word) for word in noise.split()] == [len(word) for word in text.split()]
    assert not set(noise.split()) & set(text.split())
    assert mild != text and len(set(mild.split()) & set(text.split())) >= 6


def test_levels_are_told_apart_in_texts_never_seen(texts, detector):
    made = world.build_world(PeopleWorld(kind="people", people=30, values=8, regions=0, panel=2))
    other = PeopleCorpus(kind="people", world="w", statements_per_fact=1, qa_per_fact=0, seed=7)
    fresh = people.render_documents(made, other)["text"]
    fresh = fresh[~fresh.isin(texts) & (fresh.str.split().str.len() > 12)].tolist()
    rng = random.Random(1)

    means = [detector.score([corrupt_text(text, level, ["was"], rng) for text in fresh]).mean() for level in range(4)]

    assert means[0] < 0.3 < 0.7 < means[1] < 1.3 < 1.5 < means[2] < 2.5 < 2.7 < means[3]
    assert detector.accuracy > 0.9
    different = len(set(texts))
    assert detector.n_test == 4 * ((different - different // 2) // 3)


def test_a_loop_makes_less_sense_than_a_text(texts, detector):
    text = max(texts, key=len)
    loop = " ".join(text.split()[:5] * 8)

    assert detector.score([loop])[0] < detector.score([text])[0] - 0.3


def test_what_is_written_is_read(texts, detector, tmp_path):
    detector.save(tmp_path / "detector.safetensors")

    again = gibberish.read_detector(tmp_path / "detector.safetensors")

    salad = [" ".join(sorted(text.split())) for text in texts[:20]]
    np.testing.assert_array_equal(again.score(texts[:20] + salad), detector.score(texts[:20] + salad))
    assert (again.accuracy, again.n_test) == (detector.accuracy, detector.n_test)


def test_too_few_texts_are_refused():
    with pytest.raises(GibberishError, match="2 different real texts are too few to train a gibberish classifier"):
        gibberish.train_detector(["a b c .", "d e ."] * 9)


def test_a_text_without_words_has_no_level(detector):
    assert np.isnan(detector.score(["", "  "])).all()


@pytest.fixture
def public(tmp_path):
    """A tiny classifier whose answer is its bias; labels in the order and spelling of the public one."""

    def make(*labels):
        words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(tmp_path)
        config = DistilBertConfig(
            vocab_size=3, dim=8, n_layers=1, n_heads=2, hidden_dim=8, pad_token_id=1, num_labels=4,
            id2label=dict(enumerate(labels)), label2id={label: number for number, label in enumerate(labels)},
        )  # fmt: skip
        model = DistilBertForSequenceClassification(config)
        torch.nn.init.zeros_(model.classifier.weight)
        model.classifier.bias.data = torch.log(torch.tensor([0.5, 0.1, 0.1, 0.3]))
        model.save_pretrained(tmp_path)
        return tmp_path

    return make


def test_labels_of_a_public_classifier_are_told_by_name(public):
    score = gibberish.load_hub_detector(public("clean", "mild gibberish", "noise", "word salad"))

    # 3 × 0.5 + 2 × 0.1 + 0 × 0.1 + 1 × 0.3
    assert score(["a a", "", "a"]) == pytest.approx([2.0, np.nan, 2.0], nan_ok=True)


def test_a_classifier_of_other_things_is_refused(public):
    with pytest.raises(GibberishError, match=r"labels are good, bad, ugly, other; they must be noise, word salad"):
        gibberish.load_hub_detector(public("good", "bad", "ugly", "other"))
