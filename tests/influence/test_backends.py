"""Kronfluence and Bergson match our exact inner products, and their other methods return finite scores."""

import numpy as np
import pytest
import torch

from factlife import models
from factlife.config.influence import Bergson, Kronfluence
from factlife.influence import bergson_backend, kronfluence_backend
from factlife.influence.gradients import QueryGradients
from factlife.influence.kronfluence_backend import as_linear
from factlife.influence.model_based import fact_values, load_ranking_inputs


@pytest.fixture(scope="module")
def prepared(make_model, tokenizer, functions, queries, ranked, tmp_path_factory):
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        models.save_model(make_model(name), tokenizer, folder)
        return folder, load_ranking_inputs(folder, queries.head(6), ranked, fact_values(functions), "answer_tokens")

    return make


def ours(inputs):
    queries = QueryGradients(inputs.model, inputs.queries, ["blocks"], pad=inputs.pad, batch_tokens=256, names="abcdef")
    return queries.dot_products(inputs.documents)


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2"])
def test_kronfluence_without_curvature_is_our_product(prepared, name):
    _, inputs = prepared(name)
    settings = Kronfluence(kind="kronfluence", strategy="identity", unit_normalize=False)

    scores, (products, _) = kronfluence_backend.rank_with_kronfluence(inputs, settings, batch_tokens=512), ours(inputs)

    np.testing.assert_allclose(scores, products, atol=1e-5 * np.abs(products).max())
    assert np.corrcoef(scores.ravel(), products.ravel())[0, 1] > 0.9999


def test_kronfluence_with_layers_that_share_weights_reads_a_copy_without(prepared):
    _, inputs = prepared("llama")
    inputs.model.model.layers[1] = inputs.model.model.layers[0]
    copied = as_linear(inputs.model)
    ids = torch.tensor([inputs.queries[0].input_ids])

    assert copied.model.layers[0] is not copied.model.layers[1]
    torch.testing.assert_close(copied(ids).logits, inputs.model(ids).logits)


def test_ekfac_is_finite_and_not_the_plain_product(prepared):
    _, inputs = prepared("gpt_neox")
    scores = kronfluence_backend.rank_with_kronfluence(
        inputs, Kronfluence(kind="kronfluence", factor_documents=20), batch_tokens=512
    )
    products, norms = ours(inputs)

    assert scores.shape == products.shape and np.isfinite(scores).all()
    assert np.corrcoef(scores.ravel(), (products / norms).ravel())[0, 1] < 0.999


def test_bergson_without_projection_is_our_product(prepared):
    folder, inputs = prepared("gpt_neox")

    scores = bergson_backend.rank_with_bergson(
        folder, inputs, Bergson(kind="bergson", method="dot", projection_dim=0), batch_tokens=512
    )

    products, _ = ours(inputs)
    assert np.corrcoef(scores.ravel(), products.ravel())[0, 1] > 0.9999
    np.testing.assert_allclose(scores, products, atol=1e-4 * np.abs(products).max())


@pytest.mark.parametrize(("method", "projection"), [("trackstar", 8), ("trak", 16), ("ekfac", 0)])
def test_bergsons_pipelines_run(prepared, method, projection):
    folder, inputs = prepared("llama")
    settings = Bergson(kind="bergson", method=method, projection_dim=projection)

    scores = bergson_backend.rank_with_bergson(folder, inputs, settings, batch_tokens=512)

    assert scores.shape == (len(inputs.queries), len(inputs.documents)) and np.isfinite(scores).all()
