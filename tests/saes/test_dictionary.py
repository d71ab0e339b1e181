"""Sparse dictionaries: their files, their maths, their training on activations whose features are known."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from factlife import config
from factlife.config.dictionaries import DictionarySettings, Sae
from factlife.saes import training
from factlife.saes.dictionary import (
    Dictionary,
    DictionaryError,
    load_dictionary,
    save_dictionary,
    save_for_circuit_tracer,
)


def settings_of(site, **settings):
    """Settings of an autoencoder at a site, or of a transcoder."""
    kind = {"kind": "transcoder"} if site == "transcoder" else {"kind": "sae", "site": site}
    return config.parse(DictionarySettings, kind | settings)


def make_dictionary(generator, *, d_in=6, d_sae=20, d_out=6, **more):
    def random(*shape):
        return torch.randn(*shape, generator=generator)

    rows = torch.nn.functional.normalize(random(d_sae, d_out), dim=-1)
    weights = {"W_enc": random(d_in, d_sae), "b_enc": random(d_sae), "W_dec": rows, "b_dec": random(d_out)}
    return Dictionary(**weights, **{"threshold": torch.full((d_sae,), 0.3)} | more)


@pytest.mark.parametrize(
    ("more", "architecture"),
    [
        ({}, "jumprelu"),
        ({"threshold": torch.zeros(20)}, "standard"),
        ({"threshold": torch.zeros(20), "k": 3}, "topk"),
        ({"is_transcoder": True, "d_out": 4}, "jumprelu_transcoder"),
        ({"is_transcoder": True, "threshold": torch.zeros(20)}, "transcoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_are_as_saelens_has_them_and_come_back_the_same(generator, tmp_path, more, architecture):
    saved = make_dictionary(generator, **more)
    saved.metadata = {"hook_name": "model.layers.0"}

    save_dictionary(saved, tmp_path)
    loaded = load_dictionary(tmp_path)

    x = torch.randn(50, 6, generator=generator)
    torch.testing.assert_close(loaded(x), saved(x), rtol=0, atol=0)
    settings = json.loads((tmp_path / "cfg.json").read_text())
    assert settings["architecture"] == architecture
    assert settings["apply_b_dec_to_input"] != saved.is_transcoder
    assert (settings["d_in"], settings["d_sae"], settings["metadata"]["hook_name"]) == (6, 20, "model.layers.0")
    shapes = {name: tuple(value.shape) for name, value in load_file(tmp_path / "sae_weights.safetensors").items()}
    d_out = 4 if "d_out" in more else 6
    expected_shapes = {"W_enc": (6, 20), "W_dec": (20, d_out), "b_enc": (20,), "b_dec": (d_out,)}
    assert shapes == expected_shapes | ({"threshold": (20,)} if "jumprelu" in architecture else {})


def test_encoding_is_saelens_jumprelu(generator):
    dictionary, x = make_dictionary(generator), torch.randn(30, 6, generator=generator)

    z = (x - dictionary.b_dec) @ dictionary.W_enc + dictionary.b_enc
    torch.testing.assert_close(dictionary(x), (z * (z > 0.3)) @ dictionary.W_dec + dictionary.b_dec)


def test_a_transcoder_reaches_circuit_tracer_under_its_names(generator, tmp_path):
    transcoder = make_dictionary(generator, is_transcoder=True)
    save_for_circuit_tracer([transcoder, transcoder], tmp_path)

    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert settings["transcoders"] == ["layer_0.safetensors", "layer_1.safetensors"]
    weights = load_file(tmp_path / settings["transcoders"][1])
    assert set(weights) == {"W_enc", "W_dec", "b_enc", "b_dec", "activation_function.threshold"}
    x = torch.randn(5, 6, generator=generator)
    z = x @ weights["W_enc"].T + weights["b_enc"]
    a = z * (z > weights["activation_function.threshold"])
    torch.testing.assert_close(a @ weights["W_dec"] + weights["b_dec"], transcoder(x))


def test_errors_say_what_to_do(generator, tmp_path):
    with pytest.raises(DictionaryError, match="width 6, not 5"):
        make_dictionary(generator)(torch.zeros(1, 5))
    with pytest.raises(DictionaryError, match=r"has no cfg\.json"):
        load_dictionary(tmp_path)
    save_dictionary(make_dictionary(generator), tmp_path)
    settings = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(settings | {"architecture": "gated"}))
    with pytest.raises(DictionaryError, match="gated"):
        load_dictionary(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps(settings | {"normalize_activations": "layer_norm"}))
    with pytest.raises(DictionaryError, match="fold"):
        load_dictionary(tmp_path)


def planted(generator, count, *, d=16, features=24, active=2):
    """Activations that are sparse sums of known directions, with those directions."""
    directions = torch.nn.functional.normalize(
        torch.randn(features, d, generator=torch.Generator().manual_seed(7)), dim=-1
    )
    chosen = torch.rand(count, features, generator=generator).topk(active).indices
    strength = torch.zeros(count, features).scatter(1, chosen, 1 + torch.rand(count, active, generator=generator))
    return strength @ directions + 0.5, directions


@pytest.mark.parametrize("site", ["residual", "transcoder"])
@pytest.mark.parametrize(
    ("architecture", "unexplained", "share"),
    [
        ("batchtopk", 0.15, 0.6),
        ("matryoshka_batchtopk", 0.25, 0.4),
        ("topk", 0.2, 0.6),
        ("jumprelu", 0.25, 0.4),
        ("standard", 1, 0),
    ],
)
def test_training_finds_planted_features(generator, architecture, unexplained, share, site):
    settings = settings_of(
        site,
        architecture=architecture,
        expansion_factor=4,
        k=2,
        training_tokens=200_000,
        train_batch_size_tokens=512,
    )

    def batches():
        while True:
            x, _ = planted(generator, 512)
            yield [(x, x), (3 * x, 3 * x)]

    dictionaries = training.train_on_batches(batches(), settings)

    x, directions = planted(generator, 4000)
    for scale, dictionary in zip((1, 3), dictionaries, strict=True):
        error = (dictionary(scale * x) / scale - x).square().sum() / (x - x.mean(0)).square().sum()
        l0 = float((dictionary.encode(scale * x) > 0).float().sum(-1).mean())
        cosines = (torch.nn.functional.normalize(dictionary.W_dec, dim=-1) @ directions.T).max(0).values
        assert float(error) < unexplained
        assert l0 == pytest.approx(2, abs=1)
        assert float((cosines > 0.9).float().mean()) > share or not share
        torch.testing.assert_close(dictionary.W_dec.norm(dim=-1), torch.ones(64))


def test_dead_features_come_back_to_life(generator):
    settings = Sae(kind="sae", architecture="topk", k=2, train_batch_size_tokens=256, dead_feature_tokens=1000)
    x, _ = planted(generator, 256)
    learner = training.DictionaryTrainer(x, x, settings, 0)
    with torch.no_grad():
        learner.weights["b_enc"][:32] = -5.0  # half of them below nothing everywhere
    before = learner.weights["W_enc"][:, :32].clone()
    for _ in range(3):
        learner.step(x, x, 0.5)
    torch.testing.assert_close(learner.weights["W_enc"][:, :32], before, rtol=0, atol=0)

    for _ in range(10):
        learner.step(x, x, 0.5)

    assert (learner.weights["W_enc"][:, :32] != before).any(0).float().mean() > 0.5


@pytest.mark.parametrize("site", ["residual", "transcoder"])
def test_the_threshold_is_the_mean_of_batches_least_active_values(generator, site):
    settings = settings_of(site, k=2)
    batches = [planted(generator, count)[0] for count in (256, 500)]
    learner = training.DictionaryTrainer(batches[0], batches[0], settings, 0)

    dictionary = learner.to_dictionary(batches)

    least = [
        dictionary.preactivations(x).flatten().sort(descending=True).values[round(1.96 * len(x)) - 1] for x in batches
    ]
    torch.testing.assert_close(dictionary.threshold, (sum(least) / 2).expand(64))
    assert float((dictionary.encode(batches[0]) > 0).float().sum(-1).mean()) == pytest.approx(1.96, abs=0.2)


def test_the_kth_largest_value():
    assert training.kth_largest(torch.tensor([[3.0, 1.0], [5.0, 4.0]]), 2) == 4.0
