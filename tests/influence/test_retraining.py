import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from factlife.config.influence import RetrainedModels, TopKRemoval
from factlife.config.training import Scratch, Training
from factlife.corpus import tokens
from factlife.influence import InfluenceError, retraining, retraining_metrics
from factlife.influence.queries import label_relevance

SETTINGS = RetrainedModels(subsets=12, subset_fraction=0.5, leave_one_out=3, repeats=2, shards=3)


def test_every_subset_has_as_many_models_as_repeats(ranked):
    ids = ranked["doc_id"].tolist()
    runs = retraining.subset_runs(ids, SETTINGS)

    assert len(runs) == (1 + 12 + 3) * 2
    assert runs == retraining.subset_runs(ids, SETTINGS)
    assert {len(run.removed_doc_ids) for run in runs if run.kind == "subset"} == {20}
    assert [run.removed_doc_ids for run in runs if run.kind == "leave_one_out"] == [
        (run.name,) for run in runs if run.kind == "leave_one_out"
    ]
    assert all(run.removed_doc_ids == () for run in runs if run.kind == "full")
    assert len({run.removed_doc_ids for run in runs}) == 16
    more = retraining.subset_runs(ids, SETTINGS.model_copy(update={"subsets": 14}))
    assert set(runs) <= set(more)
    shards = [run for shard in range(3) for run in retraining.shard_runs(runs, shard, 3)]
    assert sorted(shards, key=runs.index) == runs


def test_top_k_over_queries_takes_every_first_document_before_any_second():
    scores = np.array([[9.0, 8, 1, 0, 2], [0, 1, 2, 900, 800]])

    assert set(retraining.top_k_over_queries(scores, 2)) == {0, 3}
    assert set(retraining.top_k_over_queries(scores, 4)) == {0, 1, 3, 4}


def test_controls_remove_different_documents_in_every_repeat(queries, documents, functions):
    runs = retraining.control_removal_runs(queries, documents, functions, TopKRemoval(k=7, repeats=3))
    relevant = set(documents["doc_id"][(label_relevance(queries, documents, functions).distance >= 0).any(0)])

    assert {(run.name, run.repeat, len(run.removed_doc_ids)) for run in runs} == {
        (name, repeat, 7) for name in ("random documents", "relevant documents") for repeat in range(3)
    }
    assert len({run.removed_doc_ids for run in runs}) == 6
    assert all(set(run.removed_doc_ids) <= relevant for run in runs if run.name == "relevant documents")


@pytest.fixture
def linear(queries, ranked):
    """Models whose losses are exactly the sum of the effects of the removed documents, and these effects."""
    ids = ranked["doc_id"].tolist()
    effects = np.random.default_rng(0).normal(size=(len(queries), len(ids)))
    runs = retraining.subset_runs(ids, SETTINGS) + retraining.top_k_removal_runs(
        "effects", effects, ids, TopKRemoval(k=5, repeats=2)
    )
    runs += [
        retraining.RetrainingRun("top_k_removal", "random documents", repeat, tuple(ids[-5:])) for repeat in range(2)
    ]
    columns = {doc_id: i for i, doc_id in enumerate(ids)}
    rows = [
        run.__dict__
        | {
            "query_ids": queries["query_id"].tolist(),
            "loss_nats": effects[:, [columns[doc_id] for doc_id in run.removed_doc_ids]].sum(1) + 0.1 * run.repeat,
        }
        for run in runs
    ]
    return pd.DataFrame(rows), effects


def test_true_effects_predict_every_model(linear, queries, ranked):
    retrained, effects = linear
    rng = np.random.default_rng(1)
    scores = {
        "effects": effects,
        "opposite": -effects,
        "random": rng.random(effects.shape),
        "constant": np.zeros_like(effects),
    }

    answered = np.arange(len(queries)) % 2 == 0
    table = retraining_metrics.evaluate_against_retrained(
        retrained, scores, queries, ranked, correct=answered, resamples=50
    )

    of_correct = table[(table["query_set"] == "correct") & (table["group"] == "all")]
    assert of_correct.loc[of_correct["metric"] == "lds", "n"].eq(answered.sum()).all()
    removed = of_correct.set_index(["ranker", "metric"])["estimate"]
    table = table[table["query_set"] == "all"]
    estimates = table.set_index(["ranker", "metric", "group"])["estimate"]
    assert estimates["effects", "lds", "all"] == pytest.approx(1) and estimates[
        "effects", "loo", "all"
    ] == pytest.approx(1)
    assert estimates["opposite", "lds", "all"] == pytest.approx(-1)
    assert estimates["constant", "lds", "all"] == 0
    assert abs(estimates["random", "lds", "all"]) < 0.2
    assert estimates["ceiling", "lds", "all"] == pytest.approx(1)
    by_group = table[(table["metric"] == "lds") & (table["group"] != "all") & (table["ranker"] == "effects")]
    assert by_group["n"].sum() == len(queries)
    removed_documents = {
        row.name: list(row.removed_doc_ids) for row in retrained.itertuples() if row.kind == "top_k_removal"
    }
    places = {name: [ranked["doc_id"].tolist().index(one) for one in ids] for name, ids in removed_documents.items()}
    expected = effects[:, places["effects"]].sum(1) - effects[:, places["random documents"]].sum(1)
    assert estimates["effects", "removal_loss", "all"] == pytest.approx(expected.mean())
    assert removed["effects", "removal_loss"] == pytest.approx(expected[answered].mean())


@pytest.mark.parametrize("repeats", [2, 3])
def test_the_ceiling_matches_the_noise(queries, ranked, repeats):
    rng, ids, some_queries = np.random.default_rng(0), ranked["doc_id"].tolist(), queries.head(4)
    effects = rng.normal(size=(4, len(ids)))
    runs = retraining.subset_runs(ids, RetrainedModels(subsets=400, repeats=repeats))
    removed_documents = np.array([np.isin(ids, run.removed_doc_ids) for run in runs], dtype=float)
    signal = removed_documents @ effects.T
    losses = signal + signal[repeats:].std(0) * rng.normal(size=signal.shape)
    retrained = pd.DataFrame([run.__dict__ for run in runs]).assign(
        query_ids=[some_queries["query_id"].tolist()] * len(runs), loss_nats=list(losses)
    )

    table = retraining_metrics.evaluate_against_retrained(
        retrained, {"effects": effects}, some_queries, ranked, correct=np.ones(4, bool), resamples=2
    )

    estimates = table[(table["metric"] == "lds") & (table["group"] == "all")].set_index("ranker")["estimate"]
    # Noise as large as the signal: of a mean of n, n / (n + 1) is signal.
    assert estimates["ceiling"] == pytest.approx(np.sqrt(repeats / (repeats + 1)), abs=0.03)
    assert estimates["effects"] == pytest.approx(estimates["ceiling"], abs=0.03)


def test_correlations_are_spearmans():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 4, size=(2, 10, 3)).astype(float)

    found = retraining_metrics.subset_correlations(left, right)

    np.testing.assert_allclose(found, [spearmanr(left[:, k], right[:, k]).statistic for k in range(3)])


def test_retrained_models_with_other_queries_are_an_error(linear, queries, ranked):
    retrained, effects = linear
    with pytest.raises(InfluenceError, match="evaluated on other queries"):
        retraining_metrics.evaluate_against_retrained(
            retrained, {"effects": effects[1:]}, queries[1:], ranked, correct=None, resamples=5
        )


def test_no_retrained_models_give_an_empty_table(queries, ranked):
    assert retraining_metrics.evaluate_against_retrained(
        retraining_metrics.read_retrained([]), {}, queries, ranked, correct=np.ones(len(queries), bool), resamples=5
    ).empty


def test_retrained_models_train_on_all_documents_that_are_not_removed(documents, tokenizer, queries, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokens.tokenize_corpus(documents, tmp_path / "tokenizer", tmp_path / "tokens")
    source = Scratch(
        kind="scratch",
        architecture="LlamaForCausalLM",
        config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24},
    )
    training = Training(corpus="functions", checkpoints=2, epochs=4)
    about = documents[documents["entity_ids"].map(lambda ids: "B01" in ids)]["doc_id"]
    runs = [
        retraining.RetrainingRun("full", "", 0, ()),
        retraining.RetrainingRun("top_k_removal", "about", 0, tuple(about)),
    ]

    retrained = retraining.retrain(
        [*runs, runs[0]], source, tmp_path / "tokenizer", tmp_path / "tokens", training, queries, batch_tokens=512
    )

    assert list(retrained["loss_nats"][0]) == list(retrained["loss_nats"][2]) != list(retrained["loss_nats"][1])
    assert retrained["query_ids"][0] == queries["query_id"].tolist()
    assert retrained["removed_doc_ids"][1] == tuple(about)
