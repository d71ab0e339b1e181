import numpy as np
import pytest
import torch

from factlife.config.influence import Gradient
from factlife.influence.errors import InfluenceError
from factlife.influence.gradients import QueryGradients, factored_gradients, rank_by_gradient
from factlife.influence.tokenized_texts import (
    TokenizedText,
    batch_texts,
    text_losses,
    tokenize_documents,
    tokenize_queries,
)

EVERYTHING = ["blocks", "embeddings", "norms"]


@pytest.fixture
def texts(queries, ranked, functions, tokenizer):
    values = dict(zip(functions.facts["fact_id"], functions.facts["value"], strict=True))
    return tokenize_queries(queries, tokenizer)[:5], tokenize_documents(
        ranked, tokenizer, values, "answer_tokens", max_length=64
    )[:12]


def by_autograd(model, texts, parameters):
    """One row a text: the gradient of its loss by the parameters parameters, by autograd."""
    rows = []
    for text in texts:
        (batch,) = batch_texts([text], 0, 10_000)
        parts = torch.autograd.grad(text_losses(model, batch).sum(), parameters, allow_unused=True)
        parts = [
            torch.zeros_like(weight) if part is None else part for part, weight in zip(parts, parameters, strict=True)
        ]
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def parameters_of(model, selected):
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    tables |= {id(parameter) for name, parameter in model.named_parameters() if name.endswith("wpe.weight")}
    norms = {id(p) for name, p in model.named_parameters() if any(part in name for part in ("norm", "ln_"))}
    kinds = {"embeddings": tables, "norms": norms}
    kinds["blocks"] = {id(parameter) for parameter in model.parameters()} - tables - norms
    target = set().union(*(kinds[kind] for kind in selected))
    return [parameter for parameter in model.parameters() if id(parameter) in target]


@pytest.mark.parametrize("selected", [["blocks"], ["embeddings"], ["norms"], EVERYTHING], ids="+".join)
@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2"])
def test_products_and_norms_are_those_of_autograd(make_model, texts, name, selected):
    model, (query_texts, document_texts) = make_model(name), texts
    queries = QueryGradients(model, query_texts, selected, pad=0, batch_tokens=64, names="abcde")

    products, norms = queries.dot_products(document_texts)

    query_gradients, document_gradients = (by_autograd(model, side, parameters_of(model, selected)) for side in texts)
    expected = (query_gradients @ document_gradients.T).numpy()
    np.testing.assert_allclose(products, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(norms, document_gradients.norm(dim=1), rtol=1e-5)
    np.testing.assert_allclose(queries.norms, query_gradients.norm(dim=1), rtol=1e-5)


def test_a_layer_used_twice_counts_twice(make_model, texts):
    model, (query_texts, document_texts) = make_model("llama"), texts
    model.model.layers[1] = model.model.layers[0]

    products, norms = QueryGradients(
        model, query_texts, ["blocks"], pad=0, batch_tokens=64, names="abcde"
    ).dot_products(document_texts)

    query_gradients, document_gradients = (by_autograd(model, side, parameters_of(model, ["blocks"])) for side in texts)
    np.testing.assert_allclose(products, (query_gradients @ document_gradients.T).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norms, document_gradients.norm(dim=1), rtol=1e-5)


def test_no_score_depends_on_the_batch(make_model, texts):
    model, (query_texts, document_texts) = make_model("gpt_neox"), texts
    small_batches, large_batches = (
        QueryGradients(model, query_texts, EVERYTHING, pad=0, batch_tokens=tokens, names="abcde").dot_products(
            document_texts
        )[0]
        for tokens in (1, 10_000)
    )

    np.testing.assert_allclose(small_batches, large_batches, atol=1e-5 * np.abs(small_batches).max())


def test_a_margin_is_the_logit_against_its_rivals(make_model, queries, tokenizer):
    model, text = make_model("llama"), tokenize_queries(queries, tokenizer, margin=True)[0]
    (batch,) = batch_texts([text], 0, 100)
    logits = model(torch.tensor([text.input_ids])).logits[0, text.scored_positions[0] - 1]
    target = text.input_ids[text.scored_positions[0]]

    assert target not in text.rival_ids
    expected = logits[list(text.rival_ids)].exp().sum().log() - logits[target]
    torch.testing.assert_close(text_losses(model, batch), expected[None])


def test_a_step_on_a_document_lowers_the_loss_of_queries_that_it_serves(make_model, texts):
    model, (query_texts, document_texts) = make_model("llama"), texts
    products, _ = QueryGradients(model, query_texts, ["blocks"], pad=0, batch_tokens=64, names="abcde").dot_products(
        document_texts
    )
    parameters = parameters_of(model, ["blocks"])
    (document,), before = (
        batch_texts([document_texts[0]], 0, 100),
        [text_losses(model, *batch_texts([text], 0, 100)).item() for text in query_texts],
    )
    step = torch.autograd.grad(text_losses(model, document).sum(), parameters)
    with torch.no_grad():
        for parameter, part in zip(parameters, step, strict=True):
            parameter -= 1e-3 * part

    after = [text_losses(model, *batch_texts([text], 0, 100)).item() for text in query_texts]
    np.testing.assert_allclose(np.subtract(before, after), 1e-3 * products[:, 0], atol=3e-5)


def test_gradients_leave_the_model_as_it_was(make_model, texts):
    model = make_model("llama")
    factored_gradients(model, next(batch_texts(texts[0], 0, 1000)), EVERYTHING)

    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_query_without_gradient_is_an_error(make_model):
    with pytest.raises(InfluenceError, match=r"query second has norm 0\.0"):
        QueryGradients(
            make_model("llama"), [TokenizedText([1, 2], [1]), TokenizedText([1, 2], [])], ["blocks"], pad=0, batch_tokens=64,
            names=["first", "second"],
        )  # fmt: skip


def test_scores_are_named_as_they_are_made(make_model, texts):
    model = make_model("gpt_neox")
    dot, cosine, centred, twice = (
        rank_by_gradient(
            lambda _: (model, _Pad), lambda *_: texts, Gradient(kind="gradient", **settings), "abcde", batch_tokens=64
        )
        for settings in ({"score": "dot"}, {}, {"score": "centred"}, {"score": "dot", "checkpoints": [0, 1]})
    )

    query_gradients, document_gradients = (by_autograd(model, side, parameters_of(model, ["blocks"])) for side in texts)
    expected = torch.nn.functional.cosine_similarity(query_gradients[:, None], document_gradients[None], dim=2).numpy()
    np.testing.assert_allclose(cosine, expected, atol=1e-5)
    np.testing.assert_allclose(centred, expected - expected.mean(0), atol=1e-5)
    np.testing.assert_allclose(twice, 2 * dot, rtol=1e-6)


def test_a_document_without_scored_tokens_scores_nothing(make_model, texts):
    query_texts, _ = texts
    queries = QueryGradients(make_model("llama"), query_texts, EVERYTHING, pad=0, batch_tokens=64, names="abcde")
    products, norms = queries.dot_products([TokenizedText([1, 2, 3], [])])

    assert not products.any() and not norms.any()


class _Pad:
    pad_token_id = 0
