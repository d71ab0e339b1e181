"""The probe engine against one probe at a time: no batches, no padding, no cache, whole sequences."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from factlife.config.corpora import Tokenizer as Settings
from factlife.config.training import Scratch
from factlife.corpus.tokenizers import SPECIAL, train_tokenizer
from factlife.models import initialize_model
from factlife.recall.score import entropy_nats, score_probes

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.4,
}
SLIDING = SIZES | {
    "num_key_value_heads": 2,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}
FAMILIES = {
    "GPTNeoX": SIZES,
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "initializer_range": 0.4},
    "Llama": SIZES | {"num_key_value_heads": 2},
    "Qwen2": SLIDING | {"use_sliding_window": True},
    "Gemma3": SLIDING,
    "Cohere2": SLIDING,
}
CLASSES = {"GPT2": "GPT2LMHeadModel"}
WORDS = "the city of birth Ada Ben Cleo Dora lives works in New York Newark Paris Parisian Rome and every other day is"
TEXTS = [WORDS, "Ada lives in New York", "Ben works in Paris and Cleo in Rome", "the Parisian city of Newark"]


@pytest.fixture(scope="module", params=["word", "bpe"])
def tokenizer(request):
    return train_tokenizer(Settings(kind=request.param, corpus="x", vocab_size=300), TEXTS)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tokenizer):
    architecture = CLASSES.get(request.param, f"{request.param}ForCausalLM")
    made = initialize_model(
        Scratch(kind="scratch", architecture=architecture, config=FAMILIES[request.param]), tokenizer, 1
    )
    with torch.no_grad():
        # So that it writes words and not letters.
        letters = [id for token, id in tokenizer.get_vocab().items() if len(token) == 1]
        made.get_output_embeddings().weight[letters] *= 0.1
    return made


@torch.inference_mode()
def continuation(model, tokenizer, prompt, tokens=24):
    ids = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    return model.generate(**ids, do_sample=False, max_new_tokens=tokens)[0, ids["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def probes(model, tokenizer):
    """Prompts of many lengths; one target in two is what the model writes itself."""
    rng, words, rows = np.random.default_rng(0), WORDS.split(), []
    places = ["New York", "York", "Newark", "Paris", "Parisian", "Rome", "New", "other day in Paris"]
    for number in range(24):
        prompt = " ".join(rng.choice(words, 1 + number % 9))
        candidates = list(rng.choice(places, 1 + number % 5, replace=False)) if number % 4 else []
        target = candidates[0] if candidates else "Rome"
        if number % 2:
            said = tokenizer.decode(continuation(model, tokenizer, prompt)[: 1 + number % 3]).strip()
            if said and not {"\ufffd", "<"} & set(said):
                target, candidates = said, candidates and [said, *candidates]
        rows.append({"prompt": prompt, "target": target, "candidates": candidates})
    rows += [{"prompt": "Ada lives in", "target": "Atlantis \u2603", "candidates": ["Atlantis \u2603", "Rome"]}]
    return pd.DataFrame(rows)


@torch.inference_mode()
def slow(model, tokenizer, prompt, target, candidates):
    """What ``score`` should say of one probe."""
    start = tokenizer(prompt)["input_ids"]

    def written(answer):
        whole = tokenizer(f"{prompt} {answer}")["input_ids"]
        assert whole[: len(start)] == start
        return whole[len(start) :]

    def log_p(ids):
        logits = model(torch.tensor([start + ids])).logits[0].double()
        return logits.log_softmax(-1)[len(start) - 1 : -1]

    ids = written(target)
    if tokenizer.unk_token_id in ids:
        return {"representable": False}
    here = log_p(ids)
    first = here[0].argmax().item()
    value, said = tokenizer.decode(ids).strip(), tokenizer.decode(continuation(model, tokenizer, prompt)).strip()
    row = {
        "representable": True,
        "first_token_correct": first == ids[0],
        "exact_match": here.argmax(-1).tolist() == ids,
        "token_accuracy": np.mean([said == id for said, id in zip(here.argmax(-1).tolist(), ids, strict=True)]),
        "generation_match": bool(re.match(re.escape(value) + r"(?!\w)", said)),
        "loss_nats": -sum(here[place, id].item() for place, id in enumerate(ids)),
        "rank": sorted(here[0].tolist(), reverse=True).index(here[0, ids[0]].item()) + 1,
        "predicted_token": tokenizer.decode([first]),
        "n_target_tokens": len(ids),
    }
    if len(candidates):
        scores = []
        for other in map(written, candidates):
            scores.append(log_p(other).gather(1, torch.tensor(other)[:, None]).sum().item())
        shares = np.exp(scores) / np.exp(scores).sum()
        row["candidate_probability"] = shares[list(candidates).index(target)]
        row["candidate_correct"] = row["candidate_probability"] == shares.max()
        row["candidate_entropy"] = -(shares * np.log(shares)).sum()
        row["confidence"] = shares.max()
    return row


@pytest.fixture(scope="module")
def expected(model, tokenizer, probes):
    return pd.DataFrame([slow(model, tokenizer, *probe) for probe in probes.itertuples(index=False)])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_tokens", [1, 60, 8192])
def test_score_is_that_of_one_probe_at_a_time(model, tokenizer, probes, expected, batch_tokens, side):
    found = score_probes(model, tokenizer, probes, batch_tokens=batch_tokens, padding_side=side)
    pd.testing.assert_frame_equal(found, expected.astype(found.dtypes)[found.columns], rtol=1e-5, atol=1e-5)
    assert len(found) == len(probes)
    assert found["candidate_probability"].isna().sum() >= (probes["candidates"].str.len() == 0).sum() > 0


def test_random_models_are_right_and_wrong(model, tokenizer, probes):
    """What is compared above differs from probe to probe."""
    found = score_probes(model, tokenizer, probes)
    for column in ("first_token_correct", "exact_match", "candidate_correct"):
        assert set(found[column].dropna()) == {True, False}
    assert found["rank"].nunique() > 5 and found["n_target_tokens"].max() > 2


def test_probes_that_the_tokenizer_cannot_write_are_reported_in_their_place():
    tokenizer = train_tokenizer(Settings(kind="word", corpus="x"), TEXTS)
    model = bigrams(tokenizer, {})
    probes = pd.DataFrame(
        [("Ada lives in", "Atlantis", []), ("Ada lives in", "Rome", []), ("Ben lives in", "New Atlantis", ["Rome"])],
        columns=["prompt", "target", "candidates"],
        index=[7, 7, 2],
    )
    found = score_probes(model, tokenizer, probes)
    assert found["representable"].tolist() == [False, True, False]
    others = found.drop(columns=["representable"])
    assert others.iloc[[0, 2]].isna().all(axis=None)
    assert others.iloc[1].isna()[lambda null: null].index.tolist() == [
        "candidate_probability", "candidate_correct", "candidate_entropy", "confidence",
    ]  # fmt: skip


def test_no_probes_give_no_rows():
    tokenizer = train_tokenizer(Settings(kind="word", corpus="x"), TEXTS)
    probes = pd.DataFrame({"prompt": [], "target": [], "candidates": []})
    found = score_probes(bigrams(tokenizer, {}), tokenizer, probes)
    assert len(found) == 0 and "candidate_correct" in found


# Hand-made models


def bigrams(tokenizer, logits):
    """A Llama whose next token depends on the last one alone: ``logits[last][next]``, 0 where none is given.

    Embeddings are one-hot and its block writes nothing.
    """
    size = 2 * ((len(tokenizer) + 1) // 2)
    model = initialize_model(
        Scratch(
            kind="scratch",
            architecture="LlamaForCausalLM",
            config={"hidden_size": size, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
            | {"rms_norm_eps": 1e-12},
        ),
        tokenizer,
        0,
    )
    ids = tokenizer.get_vocab()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), size))
        model.lm_head.weight.zero_()
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        for last, row in logits.items():
            for token, logit in row.items():
                model.lm_head.weight[ids[token], ids[last]] = logit / size**0.5
    return model


def test_rank_loss_and_candidates_in_closed_form():
    tokenizer = train_tokenizer(Settings(kind="word", corpus="x"), TEXTS)
    model = bigrams(tokenizer, {"in": {"Paris": 3.0, "New": 2.0, "Rome": 1.0}, "New": {"York": 4.0}})
    probes = pd.DataFrame(
        [
            ("Ada lives in", "Rome", ["Rome", "Paris", "New York"]),
            ("Ada lives in", "New York", ["Rome", "New York"]),
            ("Ada lives in", "Parisian", []),
        ],
        columns=["prompt", "target", "candidates"],
    )
    size = len(tokenizer)
    total, total_new = np.exp([3.0, 2.0, 1.0]).sum() + size - 3, np.exp(4.0) + size - 1
    rome, paris, york = np.exp(1) / total, np.exp(3) / total, np.exp(2) / total * np.exp(4) / total_new
    shares = np.array([rome, paris, york]) / (rome + paris + york)

    found = score_probes(model, tokenizer, probes)

    assert found["rank"].tolist() == [3, 2, 4]
    np.testing.assert_allclose(found["loss_nats"], -np.log([rome, york, 1 / total]), rtol=1e-5)
    np.testing.assert_allclose(found["candidate_probability"][:2], [shares[0], york / (rome + york)], rtol=1e-5)
    np.testing.assert_allclose(found["candidate_entropy"][0], entropy(shares), rtol=1e-5)
    np.testing.assert_allclose(found["confidence"][0], shares[1], rtol=1e-5)
    assert found["candidate_correct"][:2].tolist() == [False, True]
    assert found["predicted_token"].tolist() == ["Paris"] * 3
    assert not found["exact_match"].any() and not found["generation_match"].any()


def entropy(shares):
    return -(shares * np.log(shares)).sum()


def test_entropy_of_values():
    assert entropy_nats(pd.Series(["a", "b", "a", "b"])) == pytest.approx(np.log(2))
    assert entropy_nats(pd.Series(["a", "a", "a", "b"])) == pytest.approx(entropy(np.array([0.75, 0.25])))


# How greedy decoding goes on from the prompt, the target, and whether its text is the target.
WRITTEN = {
    "the value, then a full stop": ("1", ["ĠParis", "."], "Paris", True, True),
    "a longer word": ("2", ["ĠRome", "n", "."], "Rome", True, False),
    "the value as the end of another": ("3", ["ĠNew", "ĠYork", ","], "York", False, False),
    "two words": ("3", ["ĠNew", "ĠYork", ","], "New York", True, True),
    "other tokens that spell the value": ("4", ["ĠOs", "lo", "."], "Oslo", False, True),
    "other tokens that spell a longer word": ("5", ["ĠCai", "ro", "ite", "."], "Cairo", False, False),
    "a letter after it that is two tokens": ("6", ["ĠUlm", "Ã", "©"], "Ulm", True, False),
    "a dash after it that is three tokens": ("7", ["ĠBonn", "â", "Ģ", "Ķ"], "Bonn", True, True),
    "a letter in it that is two tokens": ("8", ["ĠTÅ", "į", "m", "a", ";"], "Tōma", False, True),
    "one token that goes on after it": ("9", ["ĠBern."], "Bern", False, True),
    "the end": ("0", ["<eos>"], "Paris", False, False),
    "the value, then the end": ("+", ["ĠVaduz", "<eos>"], "Vaduz", True, True),
    "the value twice": ("*", ["ĠBadenĠBaden"], "Baden", False, True),
}
MERGED = ["ĠParis", "ĠRome", "ĠNew", "ĠYork", "ĠOslo", "lo", "ĠCairo", "ro", "ite", "ĠUlm", "ĠBonn", "ĠTÅįma"]
MERGED += ["ĠBern.", "ĠVaduz", "ĠBadenĠBaden"]


@pytest.fixture(scope="module")
def pieces():
    """Byte-level pieces whose merges are known: every word of ``MERGED`` grows letter by letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    grown = [(word[:end], word[end]) for word in MERGED for end in range(1, len(word))]
    merges = list(dict.fromkeys(grown))
    vocabulary = dict.fromkeys([*SPECIAL.values(), *alphabet, *("".join(pair) for pair in merges)])
    words = Tokenizer(models.BPE({token: id for id, token in enumerate(vocabulary)}, merges))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, clean_up_tokenization_spaces=False, **SPECIAL)


@pytest.fixture(scope="module")
def writer(pieces):
    """Writes what ``WRITTEN`` says."""
    table = {}
    for prompt, said, *_ in WRITTEN.values():
        for last, token in zip([prompt, *said], said, strict=False):
            assert table.setdefault(last, {token: 9.0}) == {token: 9.0}, "two cases differ after the same token"
    return bigrams(pieces, table)


@pytest.mark.parametrize("case", WRITTEN)
@pytest.mark.parametrize("penalty", [1.0, 5.0], ids=["plain", "with the model's own generation settings"])
def test_generation(case, penalty, writer, pieces, monkeypatch):
    prompt, said, target, exact, matches = WRITTEN[case]
    assert continuation(writer, pieces, prompt)[: len(said)] == pieces.convert_tokens_to_ids(said)
    probes = pd.DataFrame([{"prompt": prompt, "target": target, "candidates": []}])
    expected = slow(writer, pieces, prompt, target, [])
    monkeypatch.setattr(writer.generation_config, "repetition_penalty", penalty)

    found = score_probes(writer, pieces, probes).iloc[0]

    assert (found["exact_match"], found["generation_match"]) == (exact, matches)
    assert (expected["exact_match"], expected["generation_match"]) == (exact, matches)


def test_all_ways_of_writing_in_one_batch(writer, pieces):
    probes = pd.DataFrame([(prompt, target, []) for prompt, _, target, *_ in WRITTEN.values()])
    probes.columns = ["prompt", "target", "candidates"]
    probes["prompt"] = [" ".join(["and"] * (number % 4) + [prompt]) for number, prompt in enumerate(probes["prompt"])]
    found = score_probes(writer, pieces, probes)
    assert found["generation_match"].tolist() == [matches for *_, matches in WRITTEN.values()]
    assert found["exact_match"].tolist() == [exact for *_, exact, _ in WRITTEN.values()]
