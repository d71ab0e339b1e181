"""Findings written from tables small enough to read."""

from __future__ import annotations

import pandas as pd
import pytest

from factlife.ledger.report_text import FINDINGS, format_findings, report_findings
from factlife.ledger.summary_tables import read_tables


def table(columns: str, *rows: tuple, **same: object) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split()).assign(**same)


INTERVAL = {"ci_low": 0.1, "ci_high": 0.95}


def experiment(name: str, metric: str, group: str, control: float, arm: float, low: float, high: float):
    return table(
        "arm estimate effect effect_low effect_high",
        ("plain", control, float("nan"), float("nan"), float("nan")),
        ("rich", arm, arm - control, low, high),
        **(dict(experiment=name, metric=metric, group=group, control="plain", seed=0) | INTERVAL),
    )


TABLES = {
    "recall": table(
        "step probe_kind estimate",
        (0, "forward", 0.0),
        (9, "forward", 0.9),
        (9, "paraphrase", 0.8),
        (9, "unseen", 0.1),
        **(dict(model="m", seed=0, exposures="all", relation="all", metric="first_token_accuracy") | INTERVAL),
    ),
    "dynamics": pd.concat(
        [
            experiment("tokenization", "steps_to_50", "", 100.0, 60.0, -50.0, -30.0),
            experiment("augmentation", "final_question_exact_match", "qa_heldout", 0.1, 0.9, 0.7, 0.9),
            experiment("interference", "retention", "old", 0.5, 0.52, -0.1, 0.14),
        ]
    ),
    "tracing": table(
        "metric component window layer token_role estimate ci_low ci_high",
        ("total_effect_logit_diff", "", None, None, "", 10.0, 9.0, 11.0),
        ("indirect_effect_logit_diff", "mlp", 1, 0, "subject_last", 5.0, 4.0, 6.0),
        ("indirect_effect_logit_diff", "mlp", 3, 1, "subject_last", 9.0, 8.0, 9.0),
        ("indirect_effect_logit_diff", "mlp", 1, 2, "last", 2.0, 1.0, 3.0),
        model="m", seed=0, corruption="replacement",
    ),
    "circuits": table(
        "metric control n_edges n estimate ci_low ci_high",
        ("faithfulness", None, None, 30, 0.9, 0.8, 0.95),
        ("faithfulness", "random_weights", None, 30, 0.3, 0.2, 0.4),
        ("faithfulness", None, 5.0, 30, 0.2, 0.1, 0.3),
        ("random_best", None, None, 200, 0.27, None, None),
        model="m", seed=0, relation="major", method="EAP-IG-inputs", fraction=0.15, evaluated_on="validation", step=None,
    ),
    "edits": table(
        "editor schedule n_edits phase metric estimate",
        *(
            (editor, schedule, n, phase, metric, value - (0.5 if phase == "pre" else 0))
            for editor, schedule, n, phase, value in [
                ("weak", "batch", 8, "end", 0.6), ("strong", "batch", 4, "end", 0.7), ("strong", "batch", 8, "end", 0.8),
                ("one", "single", 1, "post", 0.9), ("one", "single", 1, "pre", 1.0),
            ]
            for metric in ("efficacy", "paraphrase", "neighbourhood", "score")
        ),
        **(dict(model="m", seed=0, criterion="argmax") | INTERVAL),
    ),
    "edit_survival": table(
        "step data group estimate",
        (0, "related", "edits", 1.0), (9, "related", "edits", 0.6), (9, "related", "control", 0.9),
        **(dict(model="m", seed=0, editor="strong", finetuning="lora", trained_layers="all", metric="retention") | INTERVAL),
    ),
    "influence": table(
        "ranker other_ranker metric estimate ci_low ci_high",
        *((*ranked, 0.1, 0.95) for ranked in [
            ("bm25", "", "mrr", 0.4), ("gradient", "", "mrr", 0.9), ("random", "", "mrr", 0.05), ("other", "", "mrr", 0.7),
        ]),
        ("bm25", "gradient", "mrr_difference", -0.5, -0.6, -0.4), ("random", "gradient", "mrr_difference", -0.85, -0.9, -0.8),
        ("gradient", "other", "mrr_difference", 0.2, -0.1, 0.5),
        **dict(model="m", seed=0, relevance="chain", document_kind="all", query_set="all", depth="all", group="all"),
    ),
    "collapse": table(
        "arm generation group estimate",
        ("replace", 0, "all", 0.9), ("replace", 2, "all", 0.5), ("replace", 2, "tail", 0.2), ("real-only", 2, "all", 0.85),
        **(dict(model="m", seed=0, metric="recall") | INTERVAL),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("title", "text"),
    [
        (
            "Learning",
            "After 9 steps *m* completes 90 % (10 to 95) of statements in trained wordings and 80 % (10 to 95) in "
            "unseen wordings (first token); for people absent from training, chance alone gives 10 % (10 to 95).",
        ),
        (
            "Tokenization",
            "Steps until half of the facts are recalled: *plain* 100 (0 to 1); *rich* 60 (0 to 1), "
            "which is −40 (−50 to −30) against *plain*.",
        ),
        (
            "Augmentation",
            "Questions answered about people without questions in training: *plain* 10 % (10 to 95); *rich* 90 % "
            "(10 to 95), which is +80 points (+70 to +90) against *plain*.",
        ),
        (
            "Forgetting",
            "Old facts still recalled after training on new facts: *plain* 50 % (10 to 95); *rich* 52 % (10 to 95), "
            "which is +2 points (−10 to +14) against *plain*, no clear difference.",
        ),
        (
            "Location",
            "The MLP that restores most of the logit difference lost when the subject is replaced: in *m*, layer 0 at the "
            "subject last token, 50 % (40 to 60).",
        ),
        (
            "Circuit",
            "15 % of the edges recover 90 % (80 to 95) of the answer to *major* on validation subjects; the best of 200 "
            "random circuits of the same size recovers 27 %.",
        ),
        (
            "Editing",
            "Efficacy, paraphrase and neighbourhood accuracy: *one* (one edit at a time) 90 % (10 to 95), "
            "90 % (10 to 95), 90 % (10 to 95); *strong* (8 edits) 80 % (10 to 95), 80 % (10 to 95), 80 % (10 to 95); "
            "*weak* (8 edits) 60 % (10 to 95), 60 % (10 to 95), 60 % (10 to 95).",
        ),
        (
            "Survival of edits",
            "Edits of *strong* that survive 9 more steps of training (*lora*): on *related* text 60 % (10 to 95), against "
            "90 % (10 to 95) of facts never edited.",
        ),
        (
            "Influence",
            "The ranker that ranks documents which state a fact highest (mean reciprocal rank): for *m*, *gradient* 0.90 "
            "(0.10 to 0.95) (no clear difference from *other*), *bm25* 0.40, *random* 0.05.",
        ),
        (
            "Collapse",
            "Facts whose whole value generation 2 recalls: in *m*, *replace* 50 % (10 to 95) and 20 % (10 to 95) of rare "
            "facts, *real-only* 85 % (10 to 95).",
        ),
    ],
)
def test_findings_match_the_tables(title, text):
    assert dict(report_findings(TABLES))[title] == text


def test_the_text_says_what_was_not_measured():
    assert report_findings({}) == [(title, "Not measured in this run.") for title in FINDINGS]
    assert len(FINDINGS) == 10


@pytest.mark.parametrize("title", FINDINGS)
def test_a_table_without_the_row_is_not_measured(title):
    lacking = {name: rows[rows["metric"] == "none"] for name, rows in TABLES.items()}
    assert dict(report_findings(lacking))[title] == "Not measured in this run."


def test_no_location_without_a_total_effect():
    traced = TABLES["tracing"].assign(ci_low=-1.0)
    assert dict(report_findings({"tracing": traced}))["Location"].endswith(
        "in *m*, none, because replacing the subject changes nothing."
    )


def test_the_same_arm_of_several_models_is_named_with_each():
    collapse = TABLES["collapse"]
    # The other model has another first seed.
    other = collapse.assign(model="small", seed=3, estimate=collapse["estimate"] / 2)
    text = dict(report_findings({"collapse": pd.concat([collapse, other])}))["Collapse"]
    assert text == (
        f"{dict(report_findings(TABLES))['Collapse'][:-1]}; in *small*, *replace* 25 % (10 to 95) and 10 % (10 to 95) of "
        "rare facts, *real-only* 42 % (10 to 95)."
    )


def test_findings_from_files_are_numbered(tmp_path):
    for name, rows in TABLES.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    result = report_findings(read_tables(sorted(tmp_path.iterdir())))
    assert result == report_findings(TABLES)
    lines = format_findings(result, {"torch": "2", "numpy": "1"}).splitlines()
    assert lines[0].startswith("1. **Learning.** After 9 steps") and lines[9].startswith("10. **Collapse.**")
    assert lines[11].startswith("Versions: torch 2, numpy 1.")
