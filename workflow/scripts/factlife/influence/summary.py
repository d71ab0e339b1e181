"""From scores to tables: every metric of every query, and means with intervals over subjects."""

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

KEYS = ["model", "seed", "world", "ranker", "depth", "k"]
MORE = ["relevance", "group", "query_set", "document_kind", "other_ranker", "p", "p_corrected"]
_COMPARED = ["mrr", "r_precision", "tail_patch"]
_OF_QUERY = ["query_id", "fact_id", "subject", "group", "depth"]


def evaluate_rankings(
    found: Mapping[str, np.ndarray],
    world: World,
    queries: pd.DataFrame,
    documents: pd.DataFrame,
    recall: pd.DataFrame,
    ks: Sequence[int],
    patched: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Every metric of every query for all rankers of one model.

    Args:
        found: scores of each ranker, (queries, documents).
        world: with the truth.
        queries: a table of ``queries.select_queries``.
        documents: a table of ``queries.select_documents``.
        recall: the model's answers to all probes: which queries it answers, at its last checkpoint.
        ks: lengths of lists.
        patched: what ``tail_patch.run_tail_patch`` found, if the model was patched; ``tail_patch`` is the mean over documents.

    Returns:
        ``query_id, fact_id, subject, group, depth, correct, ranker, other_ranker, relevance, document_kind, metric, k,
        value``; ``answered`` says whether no candidate is more probable than the answer. Queries answered wrongly stay.
    """
    known = label_relevance(queries, documents, world)
    parts = [
        evaluate_ranking(matrix, queries, documents, known, ks).assign(ranker=ranker)
        for ranker, matrix in found.items()
    ]
    for one, other in itertools.combinations(found, 2):
        value = agreement(found[one], found[other])
        parts.append(
            pd.DataFrame({"query_id": queries["query_id"], "metric": "spearman", "value": value}).assign(
                ranker=one, other_ranker=other, relevance="", document_kind="all"
            )
        )
    if patched is not None:
        gains = patched.groupby(["ranker", "query_id"], sort=False)["gain_nats"].agg(["mean", "size"]).reset_index()
        named = gains.rename(columns={"mean": "value", "size": "k"}).assign(metric="tail_patch")
        parts.append(named.assign(relevance="", document_kind="all"))
    asked = queries[_OF_QUERY].assign(correct=correct_queries(queries, recall))
    table = asked.merge(pd.concat(parts, ignore_index=True), on="query_id")
    return table.fillna({"other_ranker": ""}).dropna(subset="value").astype({"k": "Int64"})


def correct_queries(queries: pd.DataFrame, recall: pd.DataFrame) -> np.ndarray:
    """Of each query: whether no candidate is more probable than the answer, at the model's last checkpoint."""
    last = recall[recall["step"] == recall["step"].max()].set_index("probe_id")["candidate_correct"]
    return queries["query_id"].map(last).fillna(False).to_numpy(bool)


def read_metrics(paths: Iterable[str | Path]) -> pd.DataFrame:
    """What ``evaluate_rankings``, ``retraining_metrics.evaluate_against_retrained`` or ``tail_patch.run_tail_patch`` found, of several files, one after the other."""
    return pd.concat([read_table(path) for path in paths], ignore_index=True)


def summarise(judged: pd.DataFrame, retrained: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Means with bootstrap intervals over subjects, and what ``retraining_metrics.evaluate_against_retrained`` found.

    Returns:
        ``model, seed, world, ranker, depth, k, metric, n, estimate, ci_low, ci_high, interval_over`` and ``relevance, group,
        answered, document_kind, other_ranker, p, p_corrected``. ``answered`` is ``all``, or ``correct`` for the queries alone whose answer
        the model knows. Metric ``answered`` is the share of those. Metrics named ``…_difference`` are ``ranker`` less
        ``other_ranker``; the others have no p.
    """
    parts = []
    for (model, seed, world), rows in judged.groupby(["model", "seed", "world"], sort=False):
        once = rows.drop_duplicates("query_id")
        answers = once.assign(
            metric="accuracy",
            value=once["correct"].astype(float),
            k=pd.NA,
            ranker="",
            relevance="",
            document_kind="all",
            other_ranker="",
        )
        for (depth, group), part in _cuts(pd.concat([rows, answers])):
            for of, kept in (("all", part), ("correct", part[part["correct"]])):
                if of == "correct" and (kept.empty or len(kept) == len(part)):
                    continue
                keys = {
                    "model": model,
                    "seed": seed,
                    "world": world,
                    "depth": depth,
                    "group": group,
                    "query_set": of,
                }
                parts.append(_means(kept, keys, resamples))
    blank = {"k": "", "relevance": "", "document_kind": "all"}
    table = pd.concat([*parts, retrained.assign(**blank)], ignore_index=True)
    shared = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]
    return table[[*KEYS, *shared, *MORE]]


def _cuts(rows: pd.DataFrame) -> Iterable[tuple[tuple[str, str], pd.DataFrame]]:
    yield ("all", "all"), rows
    for group, part in rows.groupby("group", sort=True):
        for depth, deep in part.groupby("depth", sort=True):
            yield (str(depth), group), deep
    for depth, deep in rows.groupby("depth", sort=True):
        yield (str(depth), "all"), deep


def _means(rows: pd.DataFrame, keys: dict[str, object], resamples: int) -> pd.DataFrame:
    columns = ["ranker", "other_ranker", "relevance", "document_kind", "metric", "k"]
    rows = rows.assign(k=["" if pd.isna(k) else str(int(k)) for k in rows["k"]])
    named = rows[columns[0]].str.cat(rows[columns[1:]], sep="\t")
    wide = rows.assign(column=named).pivot(index="query_id", columns="column", values="value")
    wide = wide[sorted(wide.columns, key=_row_order)]
    subjects = rows.drop_duplicates("query_id").set_index("query_id")["subject"].loc[wide.index]
    interval = stats.cluster_bootstrap(wide.to_numpy(), subjects.to_numpy(), resamples=resamples)
    table = stats.tidy(keys, wide.columns.tolist(), interval)
    table[columns] = table["metric"].str.split("\t", expand=True).set_axis(columns, axis=1)
    return pd.concat([table, *_differences(wide, subjects.to_numpy(), keys, resamples)], ignore_index=True)


def _row_order(column: str) -> str:
    # Rows stay in the order of the metrics' earlier names.
    return column.replace("composition_subject", "composition_own").replace("hard_negative", "trap")


def _differences(
    wide: pd.DataFrame, subjects: np.ndarray, keys: dict[str, object], resamples: int
) -> Iterator[pd.DataFrame]:
    """Rankers against one another by the metrics that compare whole rankings."""
    parts = pd.Index(wide.columns).str.split("\t", expand=True).to_frame(index=False)
    parts.columns = ["ranker", "other_ranker", "relevance", "document_kind", "metric", "k"]
    whole, clusters = parts["document_kind"] == "all", len(set(subjects))
    for (metric, relevance, k), rows in parts[parts["metric"].isin(_COMPARED) & whole].groupby(
        ["metric", "relevance", "k"]
    ):
        estimates, drawn = stats.resampled_means(wide.iloc[:, rows.index].to_numpy(), subjects, resamples=resamples)
        of = dict(zip(rows["ranker"], zip(estimates, drawn.T, strict=True), strict=True))
        found = comparison.differences(of, clusters)
        more = {"metric": f"{metric}_difference", "relevance": relevance, "document_kind": "all", "k": k}
        yield found.assign(**keys, **more, n=len(wide), interval_over="facts")


def read_summary(path: str | Path) -> pd.DataFrame:
    """The summary that ``summarise`` made."""
    text = {"depth": str, "k": "Int64"} | {name: str for name in ("other_ranker", "ranker", "relevance")}
    return pd.read_csv(path, dtype=text, keep_default_na=True).fillna(
        {"other_ranker": "", "ranker": "", "relevance": ""}
    )
