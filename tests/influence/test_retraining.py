import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from factlife.config.influence import RetrainedModels, TopKRemoval
from factlife.config.models import Scratch, Training
from factlife.corpus import tokens
from factlife.influence import InfluenceError, retraining, retraining_metrics
from factlife.influence.queries import label_relevance

SETTINGS = RetrainedModels(subsets=12, subset_fraction=0.5, leave_one_out=3, repeats=2, shards=3)


def test_a_bank_has_every_subset_as_often_as_asked(ranked):
    ids = ranked["doc_id"].tolist()
    arms = retraining.subset_runs(ids, SETTINGS)

    assert len(arms) == (1 + 12 + 3) * 2
    assert arms == retraining.subset_runs(ids, SETTINGS)
    assert {len(arm.removed_doc_ids) for arm in arms if arm.kind == "subset"} == {20}
    assert [arm.removed_doc_ids for arm in arms if arm.kind == "leave_one_out"] == [
        (arm.name,) for arm in arms if arm.kind == "leave_one_out"
    ]
    assert all(arm.removed_doc_ids == () for arm in arms if arm.kind == "full")
    assert len({arm.removed_doc_ids for arm in arms}) == 16
    more = retraining.subset_runs(ids, SETTINGS.model_copy(update={"subsets": 14}))
    assert set(arms) <= set(more)
    shards = [arm for number in range(3) for arm in retraining.shard_runs(arms, number, 3)]
    assert sorted(shards, key=arms.index) == arms


def test_pooling_takes_the_first_of_every_query_before_any_second():
    scores = np.array([[9.0, 8, 1, 0, 2], [0, 1, 2, 900, 800]])

    assert set(retraining.top_k_over_queries(scores, 2)) == {0, 3}
    assert set(retraining.top_k_over_queries(scores, 4)) == {0, 1, 3, 4}


def test_controls_leave_out_other_documents_in_every_repeat(queries, documents, functions):
    arms = retraining.control_removal_runs(queries, documents, functions, TopKRemoval(k=7, repeats=3))
    relevant = set(documents["doc_id"][(label_relevance(queries, documents, functions).distance >= 0).any(0)])

    assert {(arm.name, arm.repeat, len(arm.removed_doc_ids)) for arm in arms} == {
        (name, repeat, 7) for name in ("random documents", "relevant documents") for repeat in range(3)
    }
    assert len({arm.removed_doc_ids for arm in arms}) == 6
    assert all(set(arm.removed_doc_ids) <= relevant for arm in arms if arm.name == "relevant documents")


@pytest.fixture
def linear(queries, ranked):
    """Models whose losses are exactly the sum of what each document is worth, and its worth."""
    ids = ranked["doc_id"].tolist()
    worth = np.random.default_rng(0).normal(size=(len(queries), len(ids)))
    arms = retraining.subset_runs(ids, SETTINGS) + retraining.top_k_removal_runs(
        "worth", worth, ids, TopKRemoval(k=5, repeats=2)
    )
    arms += [
        retraining.RetrainingRun("top_k_removal", "random documents", repeat, tuple(ids[-5:])) for repeat in range(2)
    ]
    at = {name: place for place, name in enumerate(ids)}
    rows = [
        arm.__dict__
        | {
            "query_ids": queries["query_id"].tolist(),
            "loss_nats": worth[:, [at[name] for name in arm.removed_doc_ids]].sum(1) + 0.1 * arm.repeat,
        }
        for arm in arms
    ]
    return pd.DataFrame(rows), worth


def test_scores_that_say_what_documents_do_foretell_every_model(linear, queries, ranked):
    trained, worth = linear
    rng = np.random.default_rng(1)
    scores = {"worth": worth, "opposite": -worth, "random": rng.random(worth.shape), "silent": np.zeros_like(worth)}

    answered = np.arange(len(queries)) % 2 == 0
    table = retraining_metrics.evaluate_against_retrained(
        trained, scores, queries, ranked, correct=answered, resamples=50
    )

    known = table[(table["query_set"] == "correct") & (table["group"] == "all")]
    assert known.loc[known["metric"] == "lds", "n"].eq(answered.sum()).all()
    removed = known.set_index(["ranker", "metric"])["estimate"]
    table = table[table["query_set"] == "all"]
    at = table.set_index(["ranker", "metric", "group"])["estimate"]
    assert at["worth", "lds", "all"] == pytest.approx(1) and at["worth", "loo", "all"] == pytest.approx(1)
    assert at["opposite", "lds", "all"] == pytest.approx(-1)
    assert at["silent", "lds", "all"] == 0
    assert abs(at["random", "lds", "all"]) < 0.2
    assert at["ceiling", "lds", "all"] == pytest.approx(1)
    by_group = table[(table["metric"] == "lds") & (table["group"] != "all") & (table["ranker"] == "worth")]
    assert by_group["n"].sum() == len(queries)
    dropped = {row.name: list(row.removed_doc_ids) for row in trained.itertuples() if row.kind == "top_k_removal"}
    places = {name: [ranked["doc_id"].tolist().index(one) for one in ids] for name, ids in dropped.items()}
    expected = worth[:, places["worth"]].sum(1) - worth[:, places["random documents"]].sum(1)
    assert at["worth", "removal_loss", "all"] == pytest.approx(expected.mean())
    assert removed["worth", "removal_loss"] == pytest.approx(expected[answered].mean())


@pytest.mark.parametrize("repeats", [2, 3])
def test_the_ceiling_is_what_noise_leaves(queries, ranked, repeats):
    rng, ids, asked = np.random.default_rng(0), ranked["doc_id"].tolist(), queries.head(4)
    worth = rng.normal(size=(4, len(ids)))
    arms = retraining.subset_runs(ids, RetrainedModels(subsets=400, repeats=repeats))
    dropped = np.array([np.isin(ids, arm.removed_doc_ids) for arm in arms], dtype=float)
    signal = dropped @ worth.T
    losses = signal + signal[repeats:].std(0) * rng.normal(size=signal.shape)
    trained = pd.DataFrame([arm.__dict__ for arm in arms]).assign(
        query_ids=[asked["query_id"].tolist()] * len(arms), loss_nats=list(losses)
    )

    table = retraining_metrics.evaluate_against_retrained(
        trained, {"worth": worth}, asked, ranked, correct=np.ones(4, bool), resamples=2
    )

    at = table[(table["metric"] == "lds") & (table["group"] == "all")].set_index("ranker")["estimate"]
    # Noise as large as the signal: of a mean of n, n / (n + 1) is signal.
    assert at["ceiling"] == pytest.approx(np.sqrt(repeats / (repeats + 1)), abs=0.03)
    assert at["worth"] == pytest.approx(at["ceiling"], abs=0.03)


def test_correlations_are_spearmans():
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 4, size=(2, 10, 3)).astype(float)

    found = retraining_metrics.subset_correlations(left, right)

    np.testing.assert_allclose(found, [spearmanr(left[:, k], right[:, k]).statistic for k in range(3)])


def test_a_bank_of_other_queries_is_refused(linear, queries, ranked):
    trained, worth = linear
    with pytest.raises(InfluenceError, match="evaluated on other queries"):
        retraining_metrics.evaluate_against_retrained(
            trained, {"worth": worth[1:]}, queries[1:], ranked, correct=None, resamples=5
        )


def test_without_a_bank_there_is_nothing_to_judge(queries, ranked):
    assert retraining_metrics.evaluate_against_retrained(
        retraining_metrics.read_retrained([]), {}, queries, ranked, correct=np.ones(len(queries), bool), resamples=5
    ).empty


def test_retrained_models_read_all_but_what_is_left_out(documents, tokenizer, queries, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokens.tokenize_corpus(documents, tmp_path / "tokenizer", tmp_path / "tokens")
    source = Scratch(
        kind="scratch",
        architecture="LlamaForCausalLM",
        config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24},
    )
    training = Training(corpus="functions", checkpoints=2, epochs=4)
    about = documents[documents["entity_ids"].map(lambda ids: "B01" in ids)]["doc_id"]
    arms = [
        retraining.RetrainingRun("full", "", 0, ()),
        retraining.RetrainingRun("top_k_removal", "about", 0, tuple(about)),
    ]

    trained = retraining.retrain(
        [*arms, arms[0]], source, tmp_path / "tokenizer", tmp_path / "tokens", training, queries, batch_tokens=512
    )

    assert list(trained["loss_nats"][0]) == list(trained["loss_nats"][2]) != list(trained["loss_nats"][1])
    assert trained["query_ids"][0] == queries["query_id"].tolist()
    assert trained["removed_doc_ids"][1] == tuple(about)
