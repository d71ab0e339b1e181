import numpy as np
import pytest
import torch

from factlife.config.influence import TailPatch
from factlife.config.training import Training
from factlife.influence import tail_patch
from factlife.influence.tokenized_texts import batch_texts, text_losses, tokenize_documents, tokenize_queries

TRAINING = Training(corpus="functions", learning_rate=0.01, muon_learning_rate=0.02, optimizer="adamw", weight_decay=0)


@pytest.fixture
def scores(queries, ranked):
    matrix = np.random.default_rng(0).random((4, len(ranked)))
    return {"some": matrix, "opposite": -matrix}


def test_gain_matches_one_optimizer_step_on_one_document(make_model, tokenizer, queries, ranked, scores):
    model, settings = make_model("llama"), TailPatch(k=2, learning_rate_fraction=0.5)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    some_queries = queries.head(4)

    table = tail_patch.run_tail_patch(
        model, tokenizer, scores, some_queries, ranked, settings, TRAINING, batch_tokens=64
    )

    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    row = table[(table["ranker"] == "some") & (table["query_id"] == some_queries["query_id"].iloc[1])].iloc[0]
    assert row["doc_id"] == ranked["doc_id"].iloc[scores["some"][1].argmax()]
    query = tokenize_queries(some_queries, tokenizer)[1]
    document = tokenize_documents(
        ranked[ranked["doc_id"] == row["doc_id"]], tokenizer, {}, "all_tokens", max_length=64
    )[0]
    (query_batch,), (document_batch,) = batch_texts([query], 0, 64), batch_texts([document], 0, 64)
    loss_before = text_losses(model, query_batch).item()
    step = torch.optim.AdamW(model.parameters(), lr=0.005, betas=TRAINING.betas, weight_decay=0)
    model(input_ids=document_batch.input_ids, labels=document_batch.input_ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    step.step()
    assert row["gain_nats"] == pytest.approx(loss_before - text_losses(model, query_batch).item(), abs=1e-5)


def test_every_ranker_and_the_control_have_k_documents(make_model, tokenizer, queries, ranked, scores):
    selected = tail_patch.documents_to_patch(scores, 4, len(ranked), TailPatch(k=3))

    assert set(selected) == {"some", "opposite", "random documents"}
    assert all(indices.shape == (4, 3) for indices in selected.values())
    np.testing.assert_array_equal(selected["some"][0], np.argsort(-scores["some"][0])[:3])
    assert len({tuple(row) for row in selected["random documents"]}) == 4
    assert tail_patch.documents_to_patch(scores, 4, 2, TailPatch(k=3))["some"].shape == (4, 2)


def test_no_gain_depends_on_the_batch(make_model, tokenizer, queries, ranked, scores):
    small_batches, large_batches = (
        tail_patch.run_tail_patch(
            make_model("gpt2"),
            tokenizer,
            scores,
            queries.head(4),
            ranked,
            TailPatch(k=1),
            TRAINING,
            batch_tokens=tokens,
        )["gain_nats"]
        for tokens in (1, 4096)
    )
    np.testing.assert_allclose(small_batches, large_batches, atol=1e-5)
