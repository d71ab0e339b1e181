import pandas as pd
import pytest

from factlife.tracing import peak_location, read_summary, summarise_traces


def trace_facts(fact, effects, known=True, corruption="replacement"):
    """Effects of the MLP as (role, layer, probability, logit)."""
    rows = pd.DataFrame(effects, columns=["token_role", "layer", "indirect_effect", "indirect_effect_logit_diff"])
    return rows.assign(
        model="m", seed=0, fact_id=fact, known=known, exclusion_reason=None, corruption=corruption, component="mlp", window=1,
        clean_probability=0.9, corrupted_probability=0.1, clean_logit_diff=5.0, corrupted_logit_diff=-3.0,
    )  # fmt: skip


@pytest.fixture
def table():
    traces = [
        trace_facts("a.r", [("relation", 0, 0.2, 1.0), ("relation", 0, 0.4, 3.0), ("last", 1, 0.5, 4.0)]),
        trace_facts("b.r", [("relation", 0, 0.1, 0.0), ("last", 1, 0.1, 2.0), ("subject_middle", 0, 0.7, 1.5)]),
        trace_facts("c.r", [("relation", 0, 9.0, 9.0)], known=False),
    ]
    return summarise_traces(pd.concat(traces).astype({"known": "boolean"}), resamples=100)


def test_tokens_of_a_role_are_averaged_within_facts_and_unknown_facts_left_out(table):
    cells = table.set_index(["metric", "token_role"])

    assert cells.loc[("indirect_effect", "relation"), ["n", "estimate"]].tolist() == pytest.approx([2, (0.3 + 0.1) / 2])
    assert cells.loc[("indirect_effect_logit_diff", "last"), ["n", "estimate"]].tolist() == pytest.approx([2, 3.0])
    assert cells.loc[("indirect_effect", "subject_middle"), ["n", "estimate"]].tolist() == pytest.approx([1, 0.7])
    totals = table[table["layer"].isna()].set_index("metric")["estimate"]
    assert totals.to_dict() == pytest.approx({"total_effect": 0.8, "total_effect_logit_diff": 8.0})


def test_the_interval_covers_the_estimate_and_spans_subjects(table):
    rows = table[(table["token_role"] == "last") & (table["metric"] == "indirect_effect_logit_diff")].iloc[0]

    assert (rows["ci_low"], rows["estimate"], rows["ci_high"]) == pytest.approx((2.0, 3.0, 4.0))


def test_the_peak_is_where_most_comes_back(table):
    assert peak_location(table, "m") == ("last", 1)
    assert peak_location(table, "m", metric="indirect_effect") == ("subject_middle", 0)
    with pytest.raises(KeyError, match="trace the model first"):
        peak_location(table, "n")


def test_the_table_survives_the_file(table, tmp_path):
    table.to_csv(tmp_path / "tracing.csv", index=False)

    assert peak_location(read_summary(tmp_path / "tracing.csv"), "m") == ("last", 1)
    assert list(read_summary(tmp_path / "tracing.csv")["layer"]) == list(table["layer"])


def test_a_model_that_knows_nothing_is_summarised_and_marked(table):
    lost = summarise_traces(
        trace_facts("a.r", [("last", 0, 0.3, 2.0)], known=False).astype({"known": "boolean"}), resamples=10
    )

    assert lost.set_index("metric").loc["indirect_effect", ["estimate", "known"]].tolist() == [0.3, False]
    assert table["known"].all()
    assert list(lost.columns) == list(table.columns)
