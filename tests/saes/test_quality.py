"""Metrics on cases whose values are known."""

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from factlife.models.anatomy import capture, get_anatomy
from factlife.saes import activations, probing, quality
from factlife.saes.dictionary import Dictionary
from factlife.saes.features import TokenContexts, label_feature

WORDS = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(37))]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Forty words, the first three of them special."""
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", padding_side="right"
    )


@pytest.fixture(scope="session")
def tiny_model() -> PreTrainedModel:
    """A random GPT-NeoX of two blocks, with biases that are not 0."""
    config = transformers.GPTNeoXConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=64, use_parallel_residual=False, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    return random_weights(transformers.GPTNeoXForCausalLM(config))


def random_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Weights large enough that every part matters, biases and norms included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                0.3 * noise + (1.0 if "norm" in name and parameter.ndim == 1 and "bias" not in name else 0.0)
            )
    return model.eval()


def perfect(d):
    """Two features a dimension, one for each sign: reconstructs everything."""
    both = torch.cat([torch.eye(d), -torch.eye(d)], 0)
    return Dictionary(both.T.clone(), torch.zeros(2 * d), both.clone(), torch.zeros(d), torch.zeros(2 * d))


@pytest.fixture
def sequences(generator):
    return [[1, *torch.randint(3, 40, (length,), generator=generator).tolist()] for length in (5, 9, 9, 12)]


@pytest.mark.parametrize("site", ["residual", "mlp", "attention"])
def test_a_perfect_dictionary_recovers_everything_and_ablation_nothing(tiny_model, tiny_tokenizer, sequences, site):
    dictionaries = [perfect(16), perfect(16)]
    sample = torch.randn(200, 16)
    substitutes = [
        quality.build_substitutes(dictionary, (sample, sample), 16, "dictionary") for dictionary in dictionaries
    ]

    text = quality.evaluate_on_text(tiny_model, tiny_tokenizer, sequences, site, substitutes)
    features, alive = quality.count_active_features(tiny_model, tiny_tokenizer, sequences, site, dictionaries)
    no_facts = pd.DataFrame(columns=["layer", "name", "subject", "variance", "error", "recalled", "clean"])
    table = quality.summarise_quality(text, features, alive, no_facts, resamples=10)

    def metric(layer, name, which):
        rows = table[(table["layer"] == layer) & (table["architecture"] == name) & (table["metric"] == which)]
        return rows["estimate"].item()

    for layer in (0, 1):
        assert metric(layer, "dictionary", "explained_variance") == pytest.approx(1, abs=1e-6)
        assert metric(layer, "pca", "explained_variance") == pytest.approx(1, abs=1e-5)  # of full rank
        assert metric(layer, "dictionary", "ce_loss_score") == pytest.approx(1, abs=1e-4)
        assert metric(layer, "zero", "ce_loss_score") == 0
        assert metric(layer, "mean", "ce_loss_score_mean_ablation") == 0
        assert metric(layer, "dictionary", "kl_div_with_sae") == pytest.approx(0, abs=1e-5)
        assert metric(layer, "zero", "cossim") == 0
        assert metric(layer, "dictionary", "l0") == 16
        assert metric(layer, "dictionary", "l2_ratio") == pytest.approx(1)
    assert metric("all", "dictionary", "ce_loss_score") == pytest.approx(1, abs=1e-4)


def test_without_passes_of_the_model_reconstruction_is_the_same(tiny_model, tiny_tokenizer, sequences):
    substitutes = [
        quality.build_substitutes(perfect(16), (torch.randn(20, 16),) * 2, 2, "dictionary") for _ in range(2)
    ]
    full, short = (
        quality.evaluate_on_text(tiny_model, tiny_tokenizer, sequences, "mlp", substitutes, splice=splice)
        for splice in (True, False)
    )
    columns = ["layer", "name", "document", "tokens", "error", "variance", "cosine", "length"]
    full = full[full["layer"] != "all"].reset_index(drop=True)
    pd.testing.assert_frame_equal(full[columns], short[columns], check_dtype=False)
    assert short[["loss", "kl"]].isna().all(axis=None)


def test_losses_are_the_models_own(tiny_model, tiny_tokenizer, sequences):
    substitutes = [
        quality.build_substitutes(perfect(16), (torch.randn(20, 16),) * 2, 2, "dictionary") for _ in range(2)
    ]

    text = quality.evaluate_on_text(tiny_model, tiny_tokenizer, sequences, "residual", substitutes)

    for document, ids in enumerate(sequences):
        ids = torch.tensor([ids])
        expected = tiny_model(input_ids=ids, labels=ids).loss.item()
        rows = text[text["document"] == document]
        assert (rows["clean"] / rows["predicted"]).unique() == pytest.approx(expected, abs=1e-5)


def test_special_tokens_keep_what_they_have(tiny_model, tiny_tokenizer):
    ids = torch.tensor([[1, 5, 6]])
    site = activations.dictionary_sites(get_anatomy(tiny_model), "residual")[0]
    with torch.no_grad(), capture({"clean": site.output_module}) as before:
        tiny_model(input_ids=ids)
    zero = (site, lambda x, y: torch.zeros_like(y))
    with (
        torch.no_grad(),
        quality.spliced(tiny_model, tiny_tokenizer, [zero]),
        capture({"now": site.output_module}) as after,
    ):
        tiny_model(input_ids=ids)
    clean, now = before["clean"], after["now"]

    torch.testing.assert_close(now[:, 0], clean[:, 0])
    assert not now[:, 1:].any()


def test_streaming_gives_every_position_of_the_text_once_a_round(tiny_model, tiny_tokenizer, sequences):
    generator = torch.Generator().manual_seed(0)
    sizes = {"batch_size_tokens": 35, "buffer_batches": 1, "activation_reuse": 1}
    batch = next(
        activations.stream_activations(
            tiny_model, tiny_tokenizer, sequences, "transcoder", **sizes, generator=generator
        )
    )

    wanted = [
        torch.cat([activations.read_activations(tiny_model, torch.tensor([ids]), torch.ones(1, len(ids)), "transcoder")[layer][side][0, 1:] for ids in sequences])
        for layer in (0, 1) for side in (0, 1)
    ]  # fmt: skip
    for found, one in zip([side for pair in batch for side in pair], wanted, strict=True):
        torch.testing.assert_close(found.sum(0), one.sum(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            found.norm(dim=-1).sort().values, one.norm(dim=-1).sort().values, rtol=1e-4, atol=1e-4
        )


def test_probing_reads_what_is_there_and_guesses_what_is_not():
    rng = np.random.default_rng(0)
    n = 400
    relation = np.array(["city", "job"])[rng.integers(0, 2, n)]
    there = np.where(relation == "city", 1.0, 0.0)[:, None] + 0.01 * rng.normal(size=(n, 1))
    features = np.concatenate([rng.normal(size=(n, 9)), there], 1)
    prompts = pd.DataFrame({"subject": np.arange(n), "relation": relation, "value": rng.integers(0, 50, n).astype(str)})

    table = probing.probe_layer(rng.normal(size=(n, 10)), features, prompts)

    mean = table[table["task"].str.startswith("relation")].groupby(["source", "k"])["accuracy"].mean()
    assert mean["features", 1] == 1
    assert mean["raw", "all"] == pytest.approx(0.5, abs=0.1)


def test_a_label_is_the_rule_behind_the_feature(tiny_tokenizer):
    generator = torch.Generator().manual_seed(0)
    sequences = [[1, *torch.randint(3, 40, (20,), generator=generator).tolist()] for _ in range(60)]
    text = TokenContexts(tiny_tokenizer, sequences)
    for keys, words in ((text.current, "on"), (text.previous, "after"), (text.next, "before")):
        active = keys == 7
        label, detection = label_feature(active, np.flatnonzero(active), text)
        assert label == f'{words} "{text.token_strings[7].strip()}"'
        assert detection == 1.0
    assert label_feature(np.zeros(len(text.current), bool), np.array([], int), text) == ("never active", 0.5)
