"""k-sparse probing: linear probes on the k best features, compared with the k best raw dimensions and all of them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

PROBE_SIZES = (1, 2, 5)


def probing_tasks(
    relations: np.ndarray, values: np.ndarray, *, max_values: int = 12, min_prompts: int = 8
) -> dict[str, np.ndarray]:
    """Binary questions about prompts: is the prompt about this relation; does this value follow.

    Args:
        relations: (prompts,).
        values: (prompts,).
        max_values: maximum number of values to ask about, the most frequent ones; ties go to the one that occurs first.
        min_prompts: minimum number of prompts with label True, and with label False.

    Returns:
        For each task its labels and the mask of the prompts that it covers, (2, prompts): a value is asked only of
        prompts about its relation.
    """
    tasks = {}
    for relation in np.unique(relations):
        labels = relations == relation
        if min_prompts <= labels.sum() <= len(labels) - min_prompts:
            tasks[f"relation {relation}"] = np.stack([labels, np.ones_like(labels)])
    counts = pd.Series(list(zip(relations, values, strict=True))).value_counts(sort=False)
    frequent = counts[counts >= min_prompts].sort_values(ascending=False, kind="stable").index[:max_values]
    for relation, value in frequent:
        mask = relations == relation
        if mask.sum() - (mask & (values == value)).sum() >= min_prompts:
            tasks[f"value {value}"] = np.stack([mask & (values == value), mask])
    return tasks


def k_sparse_accuracy(activations: np.ndarray, labels: np.ndarray, train: np.ndarray, k: int | None) -> float:
    """Balanced test accuracy of a logistic regression on k columns.

    The columns are those whose class means differ most, in standard deviations, on the training half (Gurnee et al.
    2023; the same choice as in SAEBench).

    Args:
        activations: (prompts, d).
        labels: (prompts,), boolean.
        train: (prompts,), mask of the training half; the other half is the test set.
        k: number of columns; None for all.
    """
    means, deviations = activations[train].mean(0), activations[train].std(0) + 1e-8
    x = (activations - means) / deviations
    difference = np.abs(x[train & labels].mean(0) - x[train & ~labels].mean(0))
    columns = np.argsort(-difference, kind="stable")[:k]
    probe = LogisticRegression(class_weight="balanced", max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(x[train][:, columns], labels[train])
    return float(balanced_accuracy_score(labels[~train], probe.predict(x[~train][:, columns])))


def probe_layer(raw: np.ndarray, features: np.ndarray, prompts: pd.DataFrame) -> pd.DataFrame:
    """Probe one layer for relations and values.

    Args:
        raw: (prompts, d_in), activations before a value.
        features: (prompts, d_sae), feature activations of the dictionary.
        prompts: ``subject, relation, value`` of the prompts; no subject is in both halves.

    Returns:
        One row per task, source (``features``, ``raw``) and k (``all`` for every column), with the balanced
        ``accuracy``.
    """
    subjects = pd.factorize(prompts["subject"], sort=True)[0]
    train, rows = subjects % 2 == 0, []
    tasks = probing_tasks(prompts["relation"].to_numpy(), prompts["value"].to_numpy())
    for task, (labels, mask) in tasks.items():
        counts = [(mask & half & label).sum() for half in (train, ~train) for label in (labels, ~labels)]
        if min(counts) < 2:
            continue
        for source, activations in (("features", features), ("raw", raw)):
            for k in (*PROBE_SIZES, None) if source == "raw" else PROBE_SIZES:
                accuracy = k_sparse_accuracy(activations[mask], labels[mask], train[mask], k)
                rows.append({"task": task, "source": source, "k": k or "all", "accuracy": accuracy})
    return pd.DataFrame(rows, columns=["task", "source", "k", "accuracy"])
