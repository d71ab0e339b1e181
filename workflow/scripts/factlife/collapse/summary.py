"""From the folders of all generations to one tidy table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from factlife import stats
from factlife.config.collapse import Arm
from factlife.stats import LEVEL
from factlife.world.tables import World, read_table

KEYS = ["arm", "seed", "generation", "group"]
FREQUENCIES = ("head", "middle", "tail")
DECILES = tuple(f"decile-{number}" for number in range(1, 11))
# From this probability on, a model that is wrong is called confidently wrong.
CONFIDENT = 0.5
_BINS = 10


def summarise(
    folders: Iterable[tuple[str, int, int, Path]],
    worlds: Mapping[str, World],
    arms: Mapping[str, Arm],
    *,
    resamples: int,
) -> pd.DataFrame:
    """All figures of all generations.

    Args:
        folders: arm, seed, generation and folder; arms that begin alike share the folder of generation 0.
        worlds: the world of each arm.
        arms: settings of each arm, which name its control.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``arm, seed, generation, group``. Groups: ``all``, the ``head``, ``middle`` and ``tail`` thirds and
        the deciles of taught subjects by how often they are stated; relations; ``synthetic`` for what the generation wrote and ``real`` for as many
        real texts (at generation 0). Intervals are over resampled subjects (``facts``), over ``texts``, or, in rows of
        seed ``all``, over ``seeds`` (Student's t); figures of whole sets of texts have none within a seed.
    """
    made: dict[Path, pd.DataFrame] = {}
    parts = []
    at = {(arm, seed, generation): folder for arm, seed, generation, folder in folders}
    for (arm, seed, generation), folder in at.items():
        if folder not in made:
            made[folder] = pd.concat(_figures(folder, worlds[arm], resamples), ignore_index=True)
        keys = {"arm": arm, "seed": str(seed), "generation": generation}
        parts.append(made[folder].assign(**keys)[[*KEYS, *_TIDY]])
        if control := at.get((arms[arm].control, seed, generation)):
            parts.append(_lost(folder, control, worlds[arm], resamples).assign(**keys)[[*KEYS, *_TIDY]])
    # A figure that cannot be had, as the entropy of texts that are all too short, has no row.
    table = pd.concat(parts, ignore_index=True).dropna(subset=["estimate"])
    return pd.concat([table, over_seeds(table)], ignore_index=True)


_TIDY = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]


def over_seeds(table: pd.DataFrame, keys: Sequence[str] = KEYS) -> pd.DataFrame:
    """Means over seeds, with Student's t interval, where there are several; ``n`` counts seeds."""
    kept = [key for key in keys if key != "seed"]
    rows = table.groupby([*kept, "metric"], sort=False)["estimate"].agg(["count", "mean", "std"]).reset_index()
    rows = rows[rows["count"] > 1]
    low, high = stats.seed_interval(rows["mean"], rows["std"], rows["count"])
    rows = rows.assign(seed="all", ci_low=low, ci_high=high, interval_over="seeds")
    return rows.rename(columns={"count": "n", "mean": "estimate"})[[*keys, *_TIDY]]


def parts_by_frequency(facts: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Of each taught fact: in which of equal parts its subject lies, from the most often stated to the least.

    Subjects that are stated equally often stay together, so a part may be empty.
    """
    taught = facts[facts["seen"]]
    subjects = taught.groupby("entity_id")["exposures"].first().sort_values(ascending=False, kind="stable")
    # Equally frequent subjects have the same rank, the mean of theirs.
    place = (subjects.rank(ascending=False, method="average") - 0.5) / len(subjects)
    group = pd.cut(place, np.linspace(0, 1, len(names) + 1), labels=list(names), include_lowest=True).astype(str)
    return pd.Series(group.reindex(taught["entity_id"]).to_numpy(), index=taught["fact_id"].to_numpy())


def _figures(folder: Path, world: World, resamples: int) -> Iterator[pd.DataFrame]:
    frequency = parts_by_frequency(world.facts, FREQUENCIES)
    recall = read_table(folder / "recall.parquet")
    yield from _of_recall(recall, frequency, resamples)
    forward = recall[recall["kind"] == "forward"]
    deciles = forward["fact_id"].map(parts_by_frequency(world.facts, DECILES))
    for groups in (deciles, forward["relation"]):
        for name, rows in forward.groupby(groups):
            rows = rows.assign(subject=rows["fact_id"].str.split(".").str[0])
            yield _means(rows, {"recall": "exact_match", "loss_nats": "loss_nats"}, name, resamples)
    for name, rows in read_table(folder / "formats.parquet").groupby("kind", sort=False):
        rows = rows.assign(subject=rows["fact_id"].str.split(".").str[0])
        yield _means(rows, {"accuracy": "candidate_correct"}, name, resamples)
    held_out = read_table(folder / "held_out.parquet")
    yield _perplexity("perplexity", "all", held_out["nats"], held_out["tokens"], resamples)
    paths = {"synthetic": folder / "samples.parquet", "real": folder / "real.parquet"}
    texts = {source: read_table(path) for source, path in paths.items() if path.exists()}
    for source, table in texts.items():
        yield from _of_texts(table, source, resamples)
    if (path := folder / "gibberish.json").exists() and "real" in texts:
        yield _accuracy(**json.loads(path.read_text()))
    diverse = pd.read_csv(folder / "diversity.csv", index_col="metric")
    for source in diverse:
        for metric, value in diverse[source].dropna().items():
            yield _plain(metric, source, len(texts[source]), value)
    if (path := folder / "statements.parquet").exists():
        statements = read_table(path)
        for source, table in texts.items():
            rows = statements[(statements["source"] == source) & ~statements["denied"]]
            yield from _of_statements(rows, source, world, frequency, len(table), resamples)


def _of_recall(recall: pd.DataFrame, frequency: pd.Series, resamples: int) -> Iterator[pd.DataFrame]:
    recall = recall.assign(
        subject=recall["fact_id"].str.split(".").str[0],
        frequency=recall["fact_id"].map(frequency),
        confidently_wrong=(~recall["candidate_correct"].astype("boolean") & (recall["confidence"] >= CONFIDENT)).astype(
            "Float64"
        ),
    )
    forward = recall[recall["kind"] == "forward"]
    columns = {
        "recall": "exact_match", "first_token_accuracy": "first_token_correct", "loss_nats": "loss_nats",
        "candidate_accuracy": "candidate_correct", "confidence": "confidence", "confidently_wrong": "confidently_wrong",
    }  # fmt: skip
    for group in ("all", *FREQUENCIES):
        rows = forward if group == "all" else forward[forward["frequency"] == group]
        if len(rows):
            yield _means(rows, columns, group, resamples)
    chosen = forward[forward["candidate_correct"].fillna(False).astype(bool)]
    if len(chosen):
        yield _means(chosen, {"greedy_proportion": "exact_match"}, "all", resamples)
    for kind in ("paraphrase", "question", "unseen"):
        rows, exact = recall[recall["kind"] == kind], {"recall": "exact_match", "confidence": "confidence"}
        if len(rows):
            yield _means(rows, {f"{metric}_{kind}": column for metric, column in exact.items()}, "all", resamples)
    known = forward.dropna(subset=["confidence"])
    error = calibration_error(known["confidence"].to_numpy(float), known["candidate_correct"].to_numpy(float))
    yield _plain("calibration_error", "all", len(known), error)


def _lost(folder: Path, control: Path, world: World, resamples: int) -> pd.DataFrame:
    """How much less is recalled than by the control: differences of the same probes, over resampled subjects."""
    mine, others = (read_table(path / "recall.parquet") for path in (folder, control))
    rows = mine.merge(others[["probe_id", "exact_match"]], on="probe_id", suffixes=("", "_control"))
    rows = rows[rows["kind"] == "forward"]
    rows = rows.assign(
        subject=rows["fact_id"].str.split(".").str[0],
        lost=rows["exact_match_control"].astype("Float64") - rows["exact_match"].astype("Float64"),
    )
    frequency = rows["fact_id"].map(parts_by_frequency(world.facts, FREQUENCIES))
    groups = {"all": rows} | {name: rows[frequency == name] for name in FREQUENCIES if (frequency == name).any()}
    return pd.concat([_means(rows, {"recall_lost": "lost"}, name, resamples) for name, rows in groups.items()])


def _accuracy(accuracy: float, tested: int) -> pd.DataFrame:
    """Of the classifier of gibberish, with Wilson's interval."""
    low, high = binomtest(round(accuracy * tested), tested).proportion_ci(LEVEL, method="wilson")
    row = _plain("gibberish_accuracy", "real", tested, accuracy)
    return row.assign(ci_low=low, ci_high=high, interval_over="texts")


TEST_KEYS = ["arm", "seed", "generation", "test", "scoring", "shots", "subject"]


def summarise_tests(folders: Iterable[tuple[str, int, int, Path]], *, resamples: int) -> pd.DataFrame:
    """Accuracy in multiple-choice tests.

    Args:
        folders: arm, seed, generation and folder.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``arm, seed, generation, test, scoring, shots, subject``, then ``metric, n, estimate, ci_low,
        ci_high, interval_over``. Subjects: each of them, ``factual``, ``reasoning``, ``other`` and ``all``. Metrics:
        ``accuracy``; ``accuracy_norm``, by log probability for each character; ``confidence``. Intervals over questions, or, in rows of seed ``all``, over seeds.
    """
    parts = [pd.DataFrame(columns=[*TEST_KEYS, *_TIDY])]
    columns = {"accuracy": "correct", "accuracy_norm": "correct_norm", "confidence": "confidence"}
    for arm, seed, generation, folder in folders:
        for (test, scoring, shots), form in read_table(folder / "tests.parquet").groupby(["test", "scoring", "shots"]):
            subjects = [*form.groupby("subject"), *form.groupby("group"), ("all", form)]
            for subject, rows in subjects:
                keys = {"arm": arm, "seed": str(seed), "generation": generation, "test": test, "scoring": scoring}
                found = _means(rows.assign(subject=rows["question"]), columns, "", resamples, "questions")
                parts.append(found.assign(**keys, shots=shots, subject=subject)[[*TEST_KEYS, *_TIDY]])
    table = pd.concat(parts[1:] or parts, ignore_index=True)
    return pd.concat([table, over_seeds(table, TEST_KEYS)], ignore_index=True)


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error over ten equal bins (Guo et al. 2017, eq. 3); NaN for none."""
    if not len(confidence):
        return float("nan")
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, confidence - correct, _BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _of_texts(texts: pd.DataFrame, source: str, resamples: int) -> Iterator[pd.DataFrame]:
    texts = texts.assign(empty=(texts["words"] == 0).astype(float))
    columns = {name: name for name in ("words", "entropy", "gibberish", "empty", "ended") if name in texts}
    yield _means(texts.assign(subject=range(len(texts))), columns, source, resamples, "texts")
    yield _perplexity("judge_perplexity", source, texts["judge_nats"], texts["judge_tokens"], resamples)
    if "parsed" in texts:
        yield _ratio("parsed_share", source, texts["parsed"], texts["sentences"], resamples)


def _of_statements(
    rows: pd.DataFrame, source: str, world: World, frequency: pd.Series, texts: int, resamples: int
) -> Iterator[pd.DataFrame]:
    """Figures of the facts that texts state; those of synthetic text are also given by frequency."""
    rows = rows.assign(
        subject=rows["text"],
        true=(rows["verdict"] == "true").astype(float),
        unknown=(rows["verdict"] == "unknown").astype(float),
        frequency=rows["fact_id"].map(frequency),
    )
    group = "all" if source == "synthetic" else source
    if len(rows):
        yield _means(rows, {"fact_precision": "true", "unknown_share": "unknown"}, group, resamples, "texts")
    stated = rows["fact_id"][rows["verdict"] == "true"].value_counts().reindex(frequency.index, fill_value=0)
    facts = pd.DataFrame(
        {"subject": stated.index.str.split(".").str[0], "covered": (stated > 0).astype(float)}, index=stated.index
    )
    yield _means(facts, {"coverage": "covered"}, group, resamples)
    yield _means(facts[frequency == "tail"], {"tail_coverage": "covered"}, group, resamples)
    if source == "synthetic":
        for name in FREQUENCIES:
            yield _means(facts[frequency == name], {"coverage": "covered"}, name, resamples)
            if (here := rows[rows["frequency"] == name]).size:
                yield _means(here, {"fact_precision": "true"}, name, resamples, "texts")
    yield _plain("statements", group, texts, len(rows) / texts)
    truth = world.facts.set_index("fact_id")["exposures"].reindex(stated.index)
    for metric, value in divergence(stated.to_numpy(float), truth.to_numpy(float)).items():
        yield _plain(metric, group, int(stated.sum()), value)


def divergence(stated: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How far the facts stated truly are from the distribution that the corpus was made from.

    Total variation, Hellinger distance, Kullback-Leibler divergence of what is stated from the truth (nats), and the
    entropy of what is stated over that of the truth. NaN if nothing is stated. Few statements are far from any truth:
    compare with real text of as many.
    """
    names = ("divergence_tv", "divergence_hellinger", "divergence_kl", "evenness")
    if not stated.sum():
        return dict.fromkeys(names, float("nan"))
    q, p = stated / stated.sum(), truth / truth.sum()
    there = q > 0
    entropy = -(q[there] * np.log(q[there])).sum()
    figures = (
        np.abs(q - p).sum() / 2,
        np.sqrt(((np.sqrt(q) - np.sqrt(p)) ** 2).sum() / 2),
        (q[there] * np.log(q[there] / p[there])).sum(),
        entropy / -(p[p > 0] * np.log(p[p > 0])).sum(),
    )
    return {name: float(value) for name, value in zip(names, figures, strict=True)}


def _means(
    rows: pd.DataFrame, columns: dict[str, str], group: str, resamples: int, over: str = "facts"
) -> pd.DataFrame:
    values = rows[list(columns.values())].astype(float).to_numpy()
    interval = stats.cluster_bootstrap(values, rows["subject"].to_numpy(), resamples=resamples)
    return stats.summary_rows({"group": group}, list(columns), interval, interval_over=over)


def _plain(metric: str, group: str, n: int, value: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "group": [group],
            "metric": metric,
            "n": n,
            "estimate": value,
            "ci_low": np.nan,
            "ci_high": np.nan,
            "interval_over": "",
        }
    )


def _ratio(
    metric: str, group: str, above: pd.Series, below: pd.Series, resamples: int, exp: bool = False
) -> pd.DataFrame:
    """A sum over texts by another, with an interval over resampled texts."""
    both = np.stack([above.to_numpy(float), below.to_numpy(float)], 1)
    draws = np.random.default_rng(0).multinomial(len(both), np.full(len(both), 1 / len(both)), size=resamples) @ both
    with np.errstate(invalid="ignore", divide="ignore"):
        value, drawn = both[:, 0].sum() / both[:, 1].sum(), draws[:, 0] / draws[:, 1]
    low, high = (
        np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    )
    value, low, high = np.exp([value, low, high]) if exp else (value, low, high)
    return _plain(metric, group, len(both), value).assign(ci_low=low, ci_high=high, interval_over="texts")


def _perplexity(metric: str, group: str, nats: pd.Series, tokens: pd.Series, resamples: int) -> pd.DataFrame:
    return _ratio(metric, group, nats, tokens, resamples, exp=True)
