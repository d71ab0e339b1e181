"""k-sparse probing: what a linear probe reads from the k best features, beside the k best raw dimensions and all of them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

N_PROBE_COLUMNS = (1, 2, 5)


def probing_tasks(
    relations: np.ndarray, values: np.ndarray, *, most: int = 12, least: int = 8
) -> dict[str, np.ndarray]:
    """Yes-or-no questions about prompts: is it this relation; does this value follow.

    Args:
        relations: (prompts,).
        values: (prompts,).
        most: values that are asked about: the most frequent ones, first come first.
        least: prompts with yes that a task must have.

    Returns:
        Labels by task, each with a mask of the prompts that it is asked about, (2, prompts): a value only of prompts
        of its relation.
    """
    found = {}
    for relation in np.unique(relations):
        yes = relations == relation
        if least <= yes.sum() <= len(yes) - least:
            found[f"relation {relation}"] = np.stack([yes, np.ones_like(yes)])
    counts = pd.Series(list(zip(relations, values, strict=True))).value_counts(sort=False)
    for relation, value in counts[counts >= least].sort_values(ascending=False, kind="stable").index[:most]:
        among = relations == relation
        if among.sum() - (among & (values == value)).sum() >= least:
            found[f"value {value}"] = np.stack([among & (values == value), among])
    return found


def k_sparse_accuracy(activations: np.ndarray, yes: np.ndarray, train: np.ndarray, k: int | None) -> float:
    """Balanced accuracy on the other half of a logistic regression on k columns.

    Columns are those whose means differ most between classes, in standard deviations, on the training half (Gurnee
    et al. 2023, as SAEBench has it); None for all columns.

    Args:
        activations: (prompts, d).
        yes: (prompts,), labels.
        train: (prompts,), which half is for training.
        k: how many columns.
    """
    means, spread = activations[train].mean(0), activations[train].std(0) + 1e-8
    x = (activations - means) / spread
    difference = np.abs(x[train & yes].mean(0) - x[train & ~yes].mean(0))
    columns = np.argsort(-difference, kind="stable")[:k]
    probe = LogisticRegression(class_weight="balanced", max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(x[train][:, columns], yes[train])
    return float(balanced_accuracy_score(yes[~train], probe.predict(x[~train][:, columns])))


def probe_layer(raw: np.ndarray, features: np.ndarray, prompts: pd.DataFrame) -> pd.DataFrame:
    """Probe one layer for relations and values.

    Args:
        raw: (prompts, d_in), activations before a value.
        features: (prompts, d_sae), the dictionary's.
        prompts: their ``subject, relation, value``; halves are disjoint in subjects.

    Returns:
        One row per task, source (``features``, ``raw``) and k (``all`` for every column): ``accuracy``, balanced.
    """
    subjects = pd.factorize(prompts["subject"], sort=True)[0]
    train, rows = subjects % 2 == 0, []
    asked = probing_tasks(prompts["relation"].to_numpy(), prompts["value"].to_numpy())
    for task, (yes, among) in asked.items():
        halves = [(among & half & label).sum() for half in (train, ~train) for label in (yes, ~yes)]
        if min(halves) < 2:
            continue
        for source, activations in (("features", features), ("raw", raw)):
            for k in (*N_PROBE_COLUMNS, None) if source == "raw" else N_PROBE_COLUMNS:
                accuracy = k_sparse_accuracy(activations[among], yes[among], train[among], k)
                rows.append({"task": task, "source": source, "k": k or "all", "accuracy": accuracy})
    return pd.DataFrame(rows, columns=["task", "source", "k", "accuracy"])
