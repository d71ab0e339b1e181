"""Claims evaluated on tables small enough to read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from factlife.ledger.reproductions import CLAIMS, claims_markdown, claims_page, evaluate_claims
from factlife.ledger.summary_tables import read_tables

DOCS = Path(__file__).parents[2] / "docs"


def verdicts(**tables: pd.DataFrame) -> dict[str, str]:
    claims = evaluate_claims(tables)
    return {row.effect: row.verdict for row in claims.itertuples() if row.verdict != "not measured"}


def collapse_table(seed: str = "0", **measured: tuple[float, float, float]) -> pd.DataFrame:
    """Recall of generation 1 by arm, or what a group of its facts lost: estimate, low, high. Generation 0 lost nothing."""
    rows = []
    for name, (estimate, low, high) in measured.items():
        arm, _, group = name.partition("__")
        metric, start = ("recall_drop", 0.0) if group else ("recall", 1.0)
        keys = {"arm": arm, "group": group.removeprefix("lost_") or "all", "metric": metric, "seed": seed}
        rows.append(keys | {"generation": 0, "estimate": start, "ci_low": start, "ci_high": start})
        rows.append(keys | {"generation": 1, "estimate": estimate, "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows).assign(model="m", n=100, interval_over="facts")


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [
        ((0.5, 0.4, 0.6), "reproduced"),
        ((0.02, -0.02, 0.06), "unclear"),
        ((-0.03, -0.05, -0.01), "not reproduced"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(lost, verdict):
    table = collapse_table(replace__lost_all=lost)
    assert verdicts(collapse=table) == {"Models trained only on their own text lose knowledge": verdict}


def test_accumulating_is_compared_with_replacing_and_with_real_text():
    table = collapse_table(
        replace=(0.5, 0.4, 0.6), accumulate=(0.8, 0.75, 0.85),
        replace__lost_all=(0.45, 0.35, 0.55), accumulate__lost_all=(0.15, 0.1, 0.2),
        replace__lost_head=(0.3, 0.2, 0.4), replace__lost_tail=(0.7, 0.6, 0.8),
    )  # fmt: skip
    assert verdicts(collapse=table) == {
        "Models trained only on their own text lose knowledge": "reproduced",
        "Adding synthetic text to real text loses less knowledge than replacing it": "reproduced",
        "Accumulating loses less than one fact in twenty": "not reproduced",
        "Rare facts are lost first": "reproduced",
    }


def test_claims_about_collapse_are_about_the_first_model():
    table = collapse_table(replace__lost_all=(0.5, 0.4, 0.6))
    other = collapse_table(replace__lost_all=(-0.5, -0.6, -0.4), accumulate__lost_all=(0.0, -0.01, 0.01))
    both = pd.concat([table, other.assign(model="small")])
    assert verdicts(collapse=both) == {"Models trained only on their own text lose knowledge": "reproduced"}


def test_without_pairs_a_difference_is_as_wide_as_both_intervals():
    table = collapse_table(replace__lost_head=(0.4, 0.3, 0.5), replace__lost_tail=(0.6, 0.45, 0.75))
    claims = evaluate_claims({"collapse": table}).set_index("effect").loc["Rare facts are lost first"]
    assert claims[["estimate", "ci_low", "ci_high"]].tolist() == pytest.approx([0.2, -0.05, 0.45])
    assert claims["verdict"] == "unclear"


def test_equal_arms_are_never_the_opposite():
    """An interval within the control's says neither that there is a difference nor that there is none."""
    table = collapse_table(accumulate=(0.5, 0.48, 0.52), replace=(0.5, 0.4, 0.6))
    assert verdicts(collapse=table) == {
        "Adding synthetic text to real text loses less knowledge than replacing it": "unclear"
    }


def test_seeds_are_compared_one_by_one():
    """Heads differ more between seeds than head and tail of a seed do."""
    wide = (-1.0, 1.0)
    seeds = [
        collapse_table(str(seed), replace__lost_head=(head, *wide), replace__lost_tail=(head + more, *wide))
        for seed, (head, more) in enumerate([(0.1, 0.2), (0.3, 0.22), (0.5, 0.18)])
    ]
    over = collapse_table("all", replace__lost_head=(0.3, *wide), replace__lost_tail=(0.5, *wide))
    claims = (
        evaluate_claims({"collapse": pd.concat([*seeds, over])}).set_index("effect").loc["Rare facts are lost first"]
    )
    # Standard deviation .02, three seeds, t of two degrees of freedom 4.303.
    assert claims["estimate"] == pytest.approx(0.2) and claims["n"] == 3
    assert claims["ci_low"] == pytest.approx(0.2 - 4.303 * 0.02 / 3**0.5, rel=1e-3)


def test_sites_are_compared_with_a_control():
    rows = [
        ("people-pieces", "mlp", "subject_last", 0, 0.5), ("people-pieces", "mlp", "subject_last", 1, 0.2),
        ("people-pieces", "mlp", "last", 3, 0.1), ("people-pieces", "attention", "subject_last", 1, 0.45),
        ("people-ordinary", "mlp", "last", 3, 0.9), ("people-ordinary", "mlp", "subject_last", 3, 0.0),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "component", "token_role", "layer", "estimate"]).assign(
        corruption="replacement", metric="indirect_effect", window=1, seed=0, n=9, interval_over="facts"
    )
    table = table.assign(ci_low=table["estimate"] - 0.05, ci_high=table["estimate"] + 0.05)
    claims = evaluate_claims({"tracing": table}).dropna(subset="estimate")
    assert claims["estimate"].tolist() == pytest.approx([0.4, -0.9, 0.05])
    assert claims["verdict"].tolist() == ["reproduced", "not reproduced", "unclear"]


def test_rankers_are_compared_on_the_same_queries():
    rows = [("trackstar", "bm25-answer", "mrr", -0.2, "chain"), ("trackstar", "bm25-answer", "mrr", 0.9, "ancestors")]
    rows += [("representation", "ekfac", "lds", -0.3, "")]
    table = pd.DataFrame(rows, columns=["ranker", "other_ranker", "metric", "estimate", "relevance"]).assign(
        query_set="all", depth="all", group="all", n=9, interval_over="facts"
    )
    table = table.assign(
        metric=table["metric"] + "_difference", ci_low=table["estimate"] - 0.1, ci_high=table["estimate"]
    )
    claims = evaluate_claims({"influence": table}).dropna(subset="estimate")
    assert claims["verdict"].tolist() == ["reproduced", "reproduced"]
    assert claims[["estimate", "ci_low", "ci_high"]].stack().tolist() == pytest.approx([0.2, 0.2, 0.3, 0.3, 0.3, 0.4])


def test_capacity_is_not_measured_if_the_model_stores_all_facts():
    def capacity_table(fraction):
        rows = [("final_bits_fraction", fraction), ("final_bits_per_parameter", 0.2)]
        return pd.DataFrame(rows, columns=["metric", "estimate"]).assign(
            experiment="capacity",
            arm="facts-1600-200",
            group="",
            seed="all",
            n=3,
            ci_low=0.19,
            ci_high=0.21,
            interval_over="seeds",
        )

    assert verdicts(dynamics=capacity_table(0.99)) == {}
    assert verdicts(dynamics=capacity_table(0.5)) == {"Models store two bits per parameter": "not reproduced"}


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [((-0.5, -0.7, -0.3), "reproduced"), ((-0.1, -0.3, 0.1), "unclear"), ((0.4, 0.2, 0.6), "not reproduced")],
)
def test_differences_between_arms_are_those_over_all_seeds(effect, verdict):
    rows = pd.DataFrame(
        [("0", 0.9, 0.8, 1.0), ("all", *effect)], columns=["seed", "effect", "effect_low", "effect_high"]
    ).assign(
        experiment="reversal", metric="final_accuracy", arm="forward", group="reverse", n=9, estimate=0.2, ci_low=0.1,
        ci_high=0.3, interval_over="seeds",
    )  # fmt: skip
    table = evaluate_claims({"dynamics": rows}).set_index("source").loc["Berglund et al. 2023, 2309.12288"]
    assert table["verdict"] == verdict and table["estimate"] == effect[0] and table["interval_over"] == "seeds"


def test_a_factor_is_evaluated_by_its_main_effect():
    rows = [("zipf", -22.0, -31.0, -14.0), ("people", 26.0, 17.0, 35.0), ("zipf:people", -22.0, -33.0, -11.0)]
    table = pd.DataFrame(rows, columns=["factors", "estimate", "ci_low", "ci_high"]).assign(
        experiment="imbalance", metric="plateau_steps", arm="all", group="frequency weights", seed="all", n=3,
        interval_over="seeds",
    )  # fmt: skip
    assert verdicts(dynamics=table) == {
        "A skewed distribution of people shortens the plateau: main effect over numbers of people": "reproduced"
    }


@pytest.mark.parametrize("prefix", ["", "people-"], ids=["kind", "default scenario"])
def test_editors_are_evaluated_after_all_edits(prefix):
    rows = [
        ("rome", "single", 1, "post", "probability", "score", 0.95),
        ("memit", "batch", 50, "end", "probability", "score", 0.99),
        ("memit", "batch", 100, "post", "probability", "score", 0.99),
        ("memit", "batch", 100, "end", "probability", "score", 0.5),
        ("memit", "batch", 100, "end", "probability", "paraphrase", 0.9),
        ("memit", "batch", 100, "end", "argmax", "paraphrase", 0.6),
        ("alphaedit", "batch", 100, "end", "probability", "efficacy", 0.96),
    ]
    columns = ["editor", "schedule", "n_edits", "phase", "criterion", "metric", "estimate"]
    table = pd.DataFrame(rows, columns=columns).assign(model="m", seed=0, n=50, interval_over="facts")
    table = table.assign(ci_low=table["estimate"] - 0.02, ci_high=table["estimate"] + 0.02)
    table = table.assign(editor=prefix + table["editor"])
    claims = evaluate_claims({"edits": table}).set_index("source")
    assert claims.loc["Meng et al. 2022, 2202.05262", "verdict"].tolist()[-1] == "reproduced"
    assert claims.loc["Meng et al. 2023, 2210.07229", "verdict"] == "not reproduced"
    assert claims.loc["Fang et al. 2024, 2410.02355", "verdict"] == "not reproduced"
    assert claims.loc["EasyEdit, issue 125", "verdict"] == "reproduced"


def test_editors_of_several_seeds_are_averaged_over_seeds():
    keys = {
        "model": "m",
        "editor": "rome",
        "schedule": "single",
        "n_edits": 1,
        "phase": "post",
        "criterion": "probability",
    }
    rows = [keys | {"metric": "score", "seed": seed, "estimate": at} for seed, at in enumerate((0.91, 0.93, 0.95))]
    table = pd.DataFrame(rows).assign(n=50, interval_over="facts", ci_low=0.8, ci_high=1.0)
    claims = (
        evaluate_claims({"edits": table})
        .set_index("effect")
        .loc["ROME combines efficacy, paraphrase and neighbourhood accuracy"]
    )
    assert claims["estimate"] == pytest.approx(0.93)
    # Standard deviation .02, three seeds, t of two degrees of freedom 4.303.
    assert claims["ci_high"] - claims["estimate"] == pytest.approx(4.303 * 0.02 / 3**0.5, rel=1e-3)
    assert (claims["n"], claims["interval_over"], claims["verdict"]) == (3, "seeds", "unclear")


def test_without_tables_nothing_is_measured():
    claims = evaluate_claims({})
    assert len(claims) == len(CLAIMS) and set(claims["verdict"]) == {"not measured"}
    assert claims_markdown(claims).count("**not measured**") == len(CLAIMS)
    assert claims_page(claims).count("class='not-measured'") == len(CLAIMS)


def test_documentation_shows_the_tables_that_are_kept():
    kept = evaluate_claims(read_tables(sorted((DOCS / "tables").glob("*.csv"))))
    assert claims_markdown(kept) in (DOCS / "reproductions.md").read_text(), (
        "tables or claims have changed: run `make docs`"
    )
