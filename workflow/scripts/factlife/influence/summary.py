"""Tables of results: every metric of every query, and means with intervals over subjects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from factlife import stats
from factlife.influence import comparison
from factlife.influence.queries import label_relevance
from factlife.influence.retrieval_metrics import agreement, evaluate_ranking
from factlife.world.tables import World, read_table

_KEYS = ["model", "seed", "world", "ranker", "depth", "k"]
_TIDY = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]
_FURTHER_KEYS = ["relevance", "group", "query_set", "document_kind", "other_ranker", "p", "p_corrected"]
_COMPARED_METRICS = ["mrr", "r_precision", "tail_patch"]
_QUERY_COLUMNS = ["query_id", "fact_id", "subject", "group", "depth"]
_METRIC_KEYS = ["ranker", "other_ranker", "relevance", "document_kind", "metric", "k"]


def evaluate_rankings(
    scores: Mapping[str, np.ndarray],
    world: World,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    recall: pd.DataFrame,
    ks: Sequence[int],
    tail_patch: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """All metrics of all queries for all rankers of one model.

    Args:
        scores: scores of each ranker, (queries, documents).
        world: the world, with the ground truth.
        queries: the result of ``queries.select_queries``.
        documents: the result of ``queries.select_documents``.
        recall: the model's results on all probes at all checkpoints.
        ks: cutoffs of top-k metrics.
        tail_patch: the result of ``tail_patch.run_tail_patch``, if any; metric ``tail_patch`` is the mean over documents.

    Returns:
        ``query_id, fact_id, subject, group, depth, correct, ranker, other_ranker, relevance, document_kind, metric, k,
        value``. ``correct`` is whether the model answers the query correctly. Incorrectly answered queries are included.
    """
    relevance = label_relevance(queries, documents, world)
    parts = [
        evaluate_ranking(matrix, queries, documents, relevance, ks).assign(ranker=ranker)
        for ranker, matrix in scores.items()
    ]
    for ranker, other_ranker in itertools.combinations(scores, 2):
        correlations = agreement(scores[ranker], scores[other_ranker])
        parts.append(
            pd.DataFrame({"query_id": queries["query_id"], "metric": "spearman", "value": correlations}).assign(
                ranker=ranker, other_ranker=other_ranker, relevance="", document_kind="all"
            )
        )
    if tail_patch is not None:
        gains = tail_patch.groupby(["ranker", "query_id"], sort=False)["gain_nats"].agg(["mean", "size"]).reset_index()
        gains = gains.rename(columns={"mean": "value", "size": "k"})
        parts.append(gains.assign(metric="tail_patch", relevance="", document_kind="all"))
    query_columns = queries[_QUERY_COLUMNS].assign(correct=correct_queries(queries, recall))
    table = query_columns.merge(pd.concat(parts, ignore_index=True), on="query_id")
    return table.fillna({"other_ranker": ""}).dropna(subset="value").astype({"k": "Int64"})


def correct_queries(queries: pd.DataFrame, recall: pd.DataFrame) -> np.ndarray:
    """Whether the model answers each query correctly: no candidate is more probable than the answer at the last checkpoint."""
    last = recall[recall["step"] == recall["step"].max()].set_index("probe_id")["candidate_correct"]
    return queries["query_id"].map(last).fillna(False).to_numpy(bool)


def read_metrics(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Concatenate tables of metrics or of ``tail_patch.run_tail_patch`` from several files."""
    return pd.concat([read_table(path) for path in paths], ignore_index=True)


def summarise(query_metrics: pd.DataFrame, retraining_metrics: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Means with bootstrap intervals over subjects, and the metrics of retrained models.

    Args:
        query_metrics: results of ``evaluate_rankings``.
        retraining_metrics: results of ``retraining_metrics.evaluate_against_retrained``.
        resamples: bootstrap resamples.

    Returns:
        ``model, seed, world, ranker, depth, k, metric, n, estimate, ci_low, ci_high, interval_over`` and ``relevance, group,
        query_set, document_kind, other_ranker, p, p_corrected``. ``query_set`` is ``all``, or ``correct`` for correctly
        answered queries only. Metric ``accuracy`` is their fraction. Metrics named ``…_difference`` are ``ranker`` minus
        ``other_ranker``; only they have a p.
    """
    parts = []
    for (model, seed, world), rows in query_metrics.groupby(["model", "seed", "world"], sort=False):
        one_per_query = rows.drop_duplicates("query_id")
        accuracy = one_per_query.assign(
            metric="accuracy",
            value=one_per_query["correct"].astype(float),
            k=pd.NA,
            ranker="",
            relevance="",
            document_kind="all",
            other_ranker="",
        )
        for (depth, group), part in _query_subsets(pd.concat([rows, accuracy])):
            for query_set, subset in (("all", part), ("correct", part[part["correct"]])):
                if query_set == "correct" and (subset.empty or len(subset) == len(part)):
                    continue
                keys = {
                    "model": model,
                    "seed": seed,
                    "world": world,
                    "depth": depth,
                    "group": group,
                    "query_set": query_set,
                }
                parts.append(_means(subset, keys, resamples))
    blank = {"k": "", "relevance": "", "document_kind": "all"}
    table = pd.concat([*parts, retraining_metrics.assign(**blank)], ignore_index=True)
    return table[[*_KEYS, *_TIDY, *_FURTHER_KEYS]]


def _query_subsets(rows: pd.DataFrame) -> Iterable[tuple[tuple[str, str], pd.DataFrame]]:
    yield ("all", "all"), rows
    for group, part in rows.groupby("group", sort=True):
        for depth, subset in part.groupby("depth", sort=True):
            yield (str(depth), group), subset
    for depth, subset in rows.groupby("depth", sort=True):
        yield (str(depth), "all"), subset


def _means(rows: pd.DataFrame, keys: dict[str, object], resamples: int) -> pd.DataFrame:
    rows = rows.assign(k=["" if pd.isna(k) else str(int(k)) for k in rows["k"]])
    column_names = rows[_METRIC_KEYS[0]].str.cat(rows[_METRIC_KEYS[1:]], sep="\t")
    wide = rows.assign(column=column_names).pivot(index="query_id", columns="column", values="value")
    wide = wide[sorted(wide.columns, key=_row_order)]
    subjects = rows.drop_duplicates("query_id").set_index("query_id")["subject"].loc[wide.index]
    interval = stats.cluster_bootstrap(wide.to_numpy(), subjects.to_numpy(), resamples=resamples)
    table = stats.summary_rows(keys, wide.columns.tolist(), interval)
    table[_METRIC_KEYS] = table["metric"].str.split("\t", expand=True).set_axis(_METRIC_KEYS, axis=1)
    return pd.concat([table, *_differences(wide, subjects.to_numpy(), keys, resamples)], ignore_index=True)


def _row_order(column: str) -> str:
    # Rows stay in the order of these metrics' earlier names.
    return column.replace("composition_subject", "composition_own").replace(
        "composition_hard_negative", "composition_trap"
    )


def _differences(
    wide: pd.DataFrame, subjects: np.ndarray, keys: dict[str, object], resamples: int
) -> Iterator[pd.DataFrame]:
    """Pairwise differences between rankers, for metrics of whole rankings."""
    columns = pd.Index(wide.columns).str.split("\t", expand=True).to_frame(index=False)
    columns.columns = _METRIC_KEYS
    n_subjects = len(set(subjects))
    columns = columns[columns["metric"].isin(_COMPARED_METRICS) & (columns["document_kind"] == "all")]
    for (metric, relevance, k), rows in columns.groupby(["metric", "relevance", "k"]):
        estimates, draws = stats.bootstrap_means(wide.iloc[:, rows.index].to_numpy(), subjects, resamples=resamples)
        resampled = dict(zip(rows["ranker"], zip(estimates, draws.T, strict=True), strict=True))
        metric_keys = {"metric": f"{metric}_difference", "relevance": relevance, "document_kind": "all", "k": k}
        table = comparison.differences(resampled, n_subjects)
        yield table.assign(**keys, **metric_keys, n=len(wide), interval_over="facts")


def read_summary(path: str | Path) -> pd.DataFrame:
    """Read the table of ``summarise`` from a CSV file."""
    text_columns = ("other_ranker", "ranker", "relevance")
    dtypes = {"depth": str, "k": "Int64"} | dict.fromkeys(text_columns, str)
    return pd.read_csv(path, dtype=dtypes, keep_default_na=True).fillna(dict.fromkeys(text_columns, ""))
