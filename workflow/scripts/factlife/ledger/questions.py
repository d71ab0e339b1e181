"""Questions across stages: does one stage's result for a fact predict another's?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from factlife.config.ledger import Question
from factlife.stats import LEVEL, holm

_MIN_CLUSTERS = 10


def answer_questions(
    ledger: pd.DataFrame, questions: Mapping[str, Question], *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Answer every question for every model and seed, and over all models if it compares models.

    The effect is Spearman's partial rank correlation of predictor and outcome: the correlation of the residuals of
    their ranks after a least-squares fit of the controls (categories as dummies, numbers by rank). Intervals are
    percentiles over resampled subjects; ``p`` is the two-sided fraction of resamples on the other side of zero
    (Efron and Tibshirani 1993, chapter 15), and ``p_corrected`` applies Holm's correction over all questions of a model.
    If a column is the same for all facts of a relation, relations are resampled instead; questions across models
    resample models. Fewer than ten clusters give no answer. Facts that were never learned rank last.

    Args:
        ledger: one row per fact, model and seed.
        questions: predictor, outcome and controls, by name.
        resamples: bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        One row per question, model and seed: ``question, model, seed, predictor, outcome, controls, metric, n,
        n_clusters, estimate, ci_low, ci_high, interval_over, p, p_corrected, note``; ``n_clusters`` counts
        the resampled clusters. Unanswered questions have nulls and the reason in ``note``.
    """
    ledger = _rank_unlearned_last(ledger)
    groups = [*ledger.groupby(["model", "seed"], sort=True), (("all", "all"), ledger)]
    rows = []
    for (model, run), facts in groups:
        for name, question in questions.items():
            if (model == "all") == question.across_models:
                keys = {"question": name, "model": model, "seed": run}
                rows.append(keys | _answer(facts, question, resamples, seed))
    table = pd.DataFrame(rows)
    corrected = [holm(part["p"]) for _, part in table.groupby(["model", "seed"], sort=False)]
    table.insert(table.columns.get_loc("p") + 1, "p_corrected", pd.concat(corrected))
    return table


def partial_spearman(x: np.ndarray, y: np.ndarray, controls: np.ndarray) -> float:
    """Correlation of the ranks of x and y after a least-squares fit of the controls, (items, columns), to both.

    NaN if the controls explain one of them completely.
    """
    design = np.column_stack([np.ones(len(x)), controls])
    ranks = np.column_stack([rankdata(x), rankdata(y)])
    residuals = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    norms = np.linalg.norm(residuals, axis=0)
    # Residuals of rounding size are no signal.
    return float(residuals[:, 0] @ residuals[:, 1] / norms.prod()) if norms.min() > 1e-9 * len(x) else float("nan")


def _answer(facts: pd.DataFrame, question: Question, resamples: int, seed: int) -> dict[str, object]:
    answer = {
        "predictor": question.predictor,
        "outcome": question.outcome,
        "controls": " ".join(question.controls),
        "metric": "partial_spearman" if question.controls else "spearman",
        "interval_over": "facts",
    }
    columns = [question.predictor, question.outcome, *question.controls]
    if missing := [column for column in columns if column not in facts]:
        return answer | _unanswered(0, f"the ledger has no column {', '.join(missing)}: the stage was not run")
    rows = facts.dropna(subset=columns)
    if len(rows) < _MIN_CLUSTERS:
        return answer | _unanswered(len(rows), f"fewer than {_MIN_CLUSTERS} facts have all of {', '.join(columns)}")
    for column in columns[:2]:
        if not pd.api.types.is_numeric_dtype(rows[column]):
            return answer | _unanswered(len(rows), f"{column} is not a number")
        if rows[column].nunique() == 1:
            return answer | _unanswered(len(rows), f"{column} is the same for all facts")
    unit, column = _unit(rows, question)
    clusters = rows.groupby(unit, sort=True).indices
    answer |= {"interval_over": _UNITS[unit]}
    if unit != "entity_id" and len(clusters) < _MIN_CLUSTERS:
        return answer | _unanswered(len(rows), f"{column} differs between {len(clusters)} {_UNITS[unit]} only")
    x, y = (rows[column].to_numpy(float) for column in columns[:2])
    controls = _design(rows, question.controls)
    estimate = partial_spearman(x, y, controls)
    if np.isnan(estimate):
        return answer | _unanswered(len(rows), "the controls explain predictor or outcome wholly")
    resampled = np.array(
        [partial_spearman(x[pick], y[pick], controls[pick]) for pick in _resample(clusters, resamples, seed)]
    )
    resampled = resampled[~np.isnan(resampled)]
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(resampled) else (np.nan, np.nan)
    tail = min((resampled <= 0).sum(), (resampled >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(resampled) + 1))
    result = {"n": len(rows), "n_clusters": len(clusters), "estimate": estimate, "ci_low": low, "ci_high": high, "p": p}
    return answer | result | {"note": ""}


def _unanswered(n: int, note: str) -> dict[str, object]:
    return {
        "n": n,
        "n_clusters": np.nan,
        "estimate": np.nan,
        "ci_low": np.nan,
        "ci_high": np.nan,
        "p": np.nan,
        "note": note,
    }


def _design(rows: pd.DataFrame, controls: Sequence[str]) -> np.ndarray:
    parts = [
        rankdata(rows[column])[:, None]
        if pd.api.types.is_numeric_dtype(rows[column])
        else pd.get_dummies(rows[column], drop_first=True, dtype=float).to_numpy()
        for column in controls
    ]
    return np.column_stack([np.zeros((len(rows), 0)), *parts])


_UNITS = {"model": "models", "relation": "relations", "entity_id": "facts"}


def _unit(rows: pd.DataFrame, question: Question) -> tuple[str, str]:
    """The resampled unit, and the column that does not vary within it.

    Models if the question compares models; relations if a column is the same for all facts of each; otherwise subjects.
    """
    variables = [question.predictor, question.outcome]
    if question.across_models:
        return "model", question.predictor
    by_relation = rows.groupby("relation")[variables].nunique().max()
    constant = [column for column in variables if by_relation[column] == 1]
    return ("relation", constant[0]) if constant else ("entity_id", "")


def _resample(clusters: Mapping[object, np.ndarray], resamples: int, seed: int) -> list[np.ndarray]:
    """Items of whole clusters, sampled with replacement."""
    rng, members = np.random.default_rng(seed), list(clusters.values())
    return [
        np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]) for _ in range(resamples)
    ]


def _rank_unlearned_last(ledger: pd.DataFrame) -> pd.DataFrame:
    """Give facts that were probed but never learned an infinite step, so that they rank last."""
    columns = [column for column in ("step_learned", "exposures_to_learn") if column in ledger]
    if not columns:
        return ledger
    never_learned = ledger["final_recall"].notna().to_numpy()[:, None] & ledger[columns].isna()
    return ledger.assign(**ledger[columns].mask(never_learned, np.inf))
