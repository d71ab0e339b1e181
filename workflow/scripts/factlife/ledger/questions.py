"""Questions across stages: does what one stage says of a fact tell what another will?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from factlife.config.ledger import Question
from factlife.stats import LEVEL, holm

_FEWEST = 10


def answer_questions(
    ledger: pd.DataFrame, questions: Mapping[str, Question], *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Answer every question for every model and seed, and over all models where the predictor differs between them.

    The effect is Spearman's partial rank correlation of predictor and outcome: the correlation of what is left of
    their ranks after a least-squares fit of the controls (categories as such, numbers by rank). Intervals are
    percentiles over resampled subjects; ``p`` is the two-sided share of resamples on the other side of zero
    (Efron and Tibshirani 1993, chapter 15), ``p_corrected`` Holm's over all questions of a model. Where a column is the
    same for all facts of a relation, relations are resampled, and models in questions across these; fewer than ten of
    them answer nothing. A fact that was never learned comes after all that were.

    Args:
        ledger: one row per fact, model and seed.
        questions: predictor, outcome and controls, by name.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        One row per question, model and seed: ``question, model, seed, predictor, outcome, controls, metric, n,
        n_clusters, estimate, ci_low, ci_high, interval_over, p, p_corrected, note``; ``n_clusters`` counts what was
        resampled. What cannot be answered is null, with the reason in ``note``.
    """
    ledger = _never_last(ledger)
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

    NaN where nothing is left of one of them.
    """
    design = np.column_stack([np.ones(len(x)), controls])
    ranks = np.column_stack([rankdata(x), rankdata(y)])
    left = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    size = np.linalg.norm(left, axis=0)
    # What rounding leaves of ranks that the controls explain wholly is no signal.
    return float(left[:, 0] @ left[:, 1] / size.prod()) if size.min() > 1e-9 * len(x) else float("nan")


def _answer(facts: pd.DataFrame, question: Question, resamples: int, seed: int) -> dict[str, object]:
    said = {
        "predictor": question.predictor,
        "outcome": question.outcome,
        "controls": " ".join(question.controls),
        "metric": "partial_spearman" if question.controls else "spearman",
        "interval_over": "facts",
    }
    needed = [question.predictor, question.outcome, *question.controls]
    if missing := [column for column in needed if column not in facts]:
        return said | _unanswered(0, f"the ledger has no column {', '.join(missing)}: the stage was not run")
    rows = facts.dropna(subset=needed)
    if len(rows) < _FEWEST:
        return said | _unanswered(len(rows), f"fewer than {_FEWEST} facts have all of {', '.join(needed)}")
    for column in needed[:2]:
        if not pd.api.types.is_numeric_dtype(rows[column]):
            return said | _unanswered(len(rows), f"{column} is not a number")
        if rows[column].nunique() == 1:
            return said | _unanswered(len(rows), f"{column} is the same for all facts")
    unit, column = _unit(rows, question)
    clusters = rows.groupby(unit, sort=True).indices
    said |= {"interval_over": _UNITS[unit]}
    if unit != "entity_id" and len(clusters) < _FEWEST:
        return said | _unanswered(len(rows), f"{column} differs between {len(clusters)} {_UNITS[unit]} only")
    x, y = (rows[column].to_numpy(float) for column in needed[:2])
    controls = _design(rows, question.controls)
    estimate = partial_spearman(x, y, controls)
    if np.isnan(estimate):
        return said | _unanswered(len(rows), "the controls explain predictor or outcome wholly")
    drawn = np.array([partial_spearman(x[pick], y[pick], controls[pick]) for pick in _picks(clusters, resamples, seed)])
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (np.nan, np.nan)
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    found = {"n": len(rows), "n_clusters": len(clusters), "estimate": estimate, "ci_low": low, "ci_high": high, "p": p}
    return said | found | {"note": ""}


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
    """What is resampled, and the column that does not vary within it.

    Models, where these are compared; relations, where a column is the same for all facts of each; otherwise subjects.
    """
    asked = question.predictor, question.outcome
    if question.across_models:
        return "model", question.predictor
    by_relation = rows.groupby("relation")[[*asked]].nunique().max()
    same = [column for column in asked if by_relation[column] == 1]
    return ("relation", same[0]) if same else ("entity_id", "")


def _picks(clusters: Mapping[object, np.ndarray], resamples: int, seed: int) -> list[np.ndarray]:
    """Items of whole clusters drawn with replacement."""
    rng, members = np.random.default_rng(seed), list(clusters.values())
    return [
        np.concatenate([members[each] for each in rng.integers(len(members), size=len(members))])
        for _ in range(resamples)
    ]


def _never_last(ledger: pd.DataFrame) -> pd.DataFrame:
    """Facts that were asked about and never learned, after all that were."""
    columns = [column for column in ("step_learned", "exposures_to_learn") if column in ledger]
    if not columns:
        return ledger
    never = ledger["final_recall"].notna().to_numpy()[:, None] & ledger[columns].isna()
    return ledger.assign(**ledger[columns].mask(never, np.inf))
