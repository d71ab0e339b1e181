"""Tidy summary tables from the folders of all generations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from factlife import stats
from factlife.config.collapse import CollapseArm
from factlife.stats import LEVEL
from factlife.world.tables import World, read_table

KEYS = ["model", "arm", "seed", "generation", "group"]
TASK_KEYS = ["model", "arm", "seed", "generation", "task", "scoring", "num_fewshot", "subject"]
FREQUENCIES = ("head", "middle", "tail")
DECILES = tuple(f"decile-{i}" for i in range(1, 11))
# Confidence from which a wrong answer counts as confidently wrong.
CONFIDENT = 0.5
_N_BINS = 10
_TIDY = ["metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]


class GenerationKey(NamedTuple):
    """A generation: ``model`` is generation 0 of the chain."""

    model: str
    arm: str
    seed: int
    generation: int

    def columns(self) -> dict[str, str | int]:
        """Values of the key columns. Seeds are text, because means over seeds have the seed ``all``."""
        return self._asdict() | {"seed": str(self.seed)}


def summarise_generations(
    folders: Mapping[GenerationKey, Path],
    worlds: Mapping[str, World],
    arms: Mapping[str, Mapping[str, CollapseArm]],
    *,
    resamples: int,
) -> pd.DataFrame:
    """All metrics of all generations.

    Args:
        folders: folder of each generation; arms of a model with the same settings of generation 0 share its folder.
        worlds: the world of each model.
        arms: settings of each model's arms, which name their controls.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``model, arm, seed, generation, group``. Groups: ``all``; the ``head``, ``middle`` and ``tail`` thirds and the
        deciles of seen subjects by frequency; relations; prompt formats; ``synthetic`` for generated text and ``real`` for
        the same number of real texts (at generation 0). Intervals are over resampled subjects (``facts``), over ``texts``,
        or, in rows of seed ``all``, over ``seeds`` (Student's t). Metrics of a whole set of texts have no interval within a
        seed.
    """
    by_folder: dict[Path, pd.DataFrame] = {}
    parts = []
    for key, folder in folders.items():
        world = worlds[key.model]
        if folder not in by_folder:
            by_folder[folder] = pd.concat(_generation_rows(folder, world, resamples), ignore_index=True)
        parts.append(by_folder[folder].assign(**key.columns())[[*KEYS, *_TIDY]])
        control_arm = arms[key.model][key.arm].control
        if control_arm and (control := folders.get(key._replace(arm=control_arm))):
            drop = _recall_drop_rows(folder, control, world, resamples)
            parts.append(drop.assign(**key.columns())[[*KEYS, *_TIDY]])
    # An undefined metric, such as the entropy of texts that are all too short, has no row.
    table = pd.concat(parts, ignore_index=True).dropna(subset=["estimate"])
    return pd.concat([table, means_over_seeds(table)], ignore_index=True)


def means_over_seeds(table: pd.DataFrame, keys: Sequence[str] = KEYS) -> pd.DataFrame:
    """Means over seeds where there are several, with Student's t interval; ``n`` is the number of seeds."""
    group_keys = [key for key in keys if key != "seed"]
    rows = table.groupby([*group_keys, "metric"], sort=False)["estimate"].agg(["count", "mean", "std"]).reset_index()
    rows = rows[rows["count"] > 1]
    low, high = stats.seed_interval(rows["mean"], rows["std"], rows["count"])
    rows = rows.assign(seed="all", ci_low=low, ci_high=high, interval_over="seeds")
    return rows.rename(columns={"count": "n", "mean": "estimate"})[[*keys, *_TIDY]]


def frequency_groups(facts: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """Group of each seen fact, from the most frequent subjects to the least frequent, in groups of equal size.

    Subjects with the same frequency stay together, so a group may be empty.
    """
    seen_facts = facts[facts["seen"]]
    exposures = seen_facts.groupby("entity_id")["exposures"].first().sort_values(ascending=False, kind="stable")
    # Subjects with the same frequency share their mean rank.
    quantile = (exposures.rank(ascending=False, method="average") - 0.5) / len(exposures)
    group = pd.cut(quantile, np.linspace(0, 1, len(names) + 1), labels=list(names), include_lowest=True).astype(str)
    return pd.Series(group.reindex(seen_facts["entity_id"]).to_numpy(), index=seen_facts["fact_id"].to_numpy())


def _generation_rows(folder: Path, world: World, resamples: int) -> Iterator[pd.DataFrame]:
    frequency = frequency_groups(world.facts, FREQUENCIES)
    scores = read_table(folder / "recall.parquet")
    yield from _recall_rows(scores, frequency, resamples)
    forward = scores[scores["kind"] == "forward"]
    deciles = forward["fact_id"].map(frequency_groups(world.facts, DECILES))
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
        yield from _text_rows(table, source, resamples)
    if (path := folder / "gibberish_detector.json").exists() and "real" in texts:
        yield _detector_accuracy(**json.loads(path.read_text()))
    diversity = pd.read_csv(folder / "diversity.csv", index_col="metric")
    for source in diversity:
        for metric, value in diversity[source].dropna().items():
            yield _without_interval(metric, source, len(texts[source]), value)
    if (path := folder / "statements.parquet").exists():
        statements = read_table(path)
        for source, table in texts.items():
            rows = statements[(statements["source"] == source) & ~statements["negated"]]
            yield from _statement_rows(rows, source, world, frequency, len(table), resamples)


def _recall_rows(scores: pd.DataFrame, frequency: pd.Series, resamples: int) -> Iterator[pd.DataFrame]:
    is_wrong, is_confident = ~scores["candidate_correct"].astype("boolean"), scores["confidence"] >= CONFIDENT
    scores = scores.assign(
        subject=scores["fact_id"].str.split(".").str[0],
        frequency=scores["fact_id"].map(frequency),
        confidently_wrong=(is_wrong & is_confident).astype("Float64"),
    )
    forward = scores[scores["kind"] == "forward"]
    columns = {
        "recall": "exact_match", "first_token_accuracy": "first_token_correct", "loss_nats": "loss_nats",
        "candidate_accuracy": "candidate_correct", "confidence": "confidence", "confidently_wrong": "confidently_wrong",
    }  # fmt: skip
    for group in ("all", *FREQUENCIES):
        rows = forward if group == "all" else forward[forward["frequency"] == group]
        if len(rows):
            yield _means(rows, columns, group, resamples)
    correct = forward[forward["candidate_correct"].fillna(False).astype(bool)]
    if len(correct):
        yield _means(correct, {"greedy_proportion": "exact_match"}, "all", resamples)
    for kind in ("paraphrase", "question", "unseen"):
        rows = scores[scores["kind"] == kind]
        if len(rows):
            columns = {f"recall_{kind}": "exact_match", f"confidence_{kind}": "confidence"}
            yield _means(rows, columns, "all", resamples)
    forward = forward.dropna(subset=["confidence"])
    error = calibration_error(forward["confidence"].to_numpy(float), forward["candidate_correct"].to_numpy(float))
    yield _without_interval("calibration_error", "all", len(forward), error)


def _recall_drop_rows(folder: Path, control: Path, world: World, resamples: int) -> pd.DataFrame:
    """The control's recall minus the arm's: differences between the same probes, over resampled subjects."""
    scores, control_scores = (read_table(path / "recall.parquet") for path in (folder, control))
    columns = ["probe_id", "exact_match"]
    rows = scores.merge(control_scores[columns], on="probe_id", suffixes=("", "_control"))
    rows = rows[rows["kind"] == "forward"]
    rows = rows.assign(
        subject=rows["fact_id"].str.split(".").str[0],
        drop=rows["exact_match_control"].astype("Float64") - rows["exact_match"].astype("Float64"),
    )
    frequency = rows["fact_id"].map(frequency_groups(world.facts, FREQUENCIES))
    groups = {"all": rows} | {name: rows[frequency == name] for name in FREQUENCIES if (frequency == name).any()}
    return pd.concat([_means(rows, {"recall_drop": "drop"}, name, resamples) for name, rows in groups.items()])


def _detector_accuracy(accuracy: float, n_test: int) -> pd.DataFrame:
    """Accuracy of the gibberish detector, with Wilson's interval."""
    low, high = binomtest(round(accuracy * n_test), n_test).proportion_ci(LEVEL, method="wilson")
    row = _without_interval("gibberish_detector_accuracy", "real", n_test, accuracy)
    return row.assign(ci_low=low, ci_high=high, interval_over="texts")


def summarise_tasks(folders: Mapping[GenerationKey, Path], *, resamples: int) -> pd.DataFrame:
    """Accuracy in multiple-choice tasks.

    Args:
        folders: folder of each generation.
        resamples: bootstrap resamples.

    Returns:
        Rows keyed by ``model, arm, seed, generation, task, scoring, num_fewshot, subject``, then ``metric, n, estimate,
        ci_low, ci_high, interval_over``. Subjects: each subject, ``factual``, ``reasoning``, ``other`` and ``all``. Metrics:
        ``accuracy``; ``accuracy_norm``, by log probability per character; ``confidence``. Intervals are over questions, or,
        in rows of seed ``all``, over seeds.
    """
    parts = [pd.DataFrame(columns=[*TASK_KEYS, *_TIDY])]
    columns = {"accuracy": "correct", "accuracy_norm": "correct_norm", "confidence": "confidence"}
    for key, folder in folders.items():
        answers = read_table(folder / "tasks.parquet")
        for (task, scoring, num_fewshot), group in answers.groupby(["task", "scoring", "num_fewshot"]):
            subjects = [*group.groupby("subject"), *group.groupby("group"), ("all", group)]
            for subject, rows in subjects:
                keys = key.columns() | {
                    "task": task,
                    "scoring": scoring,
                    "num_fewshot": num_fewshot,
                    "subject": subject,
                }
                means = _means(rows.assign(subject=rows["question"]), columns, "", resamples, "questions")
                parts.append(means.assign(**keys)[[*TASK_KEYS, *_TIDY]])
    table = pd.concat(parts[1:] or parts, ignore_index=True)
    return pd.concat([table, means_over_seeds(table, TASK_KEYS)], ignore_index=True)


def calibration_error(confidence: np.ndarray, is_correct: np.ndarray) -> float:
    """Expected calibration error over ten equal bins (Guo et al. 2017, eq. 3); NaN for no answers."""
    if not len(confidence):
        return float("nan")
    bins = np.minimum((confidence * _N_BINS).astype(int), _N_BINS - 1)
    gaps = np.bincount(bins, confidence - is_correct, _N_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _text_rows(texts: pd.DataFrame, source: str, resamples: int) -> Iterator[pd.DataFrame]:
    texts = texts.assign(subject=range(len(texts)), is_empty=(texts["words"] == 0).astype(float))
    columns = {
        "words_per_text": "words", "entropy": "entropy", "gibberish_level": "gibberish_level", "empty_fraction": "is_empty",
        "eos_fraction": "ends_with_eos",
    }  # fmt: skip
    columns = {metric: column for metric, column in columns.items() if column in texts}
    yield _means(texts, columns, source, resamples, "texts")
    nats, tokens = texts["perplexity_nats"], texts["perplexity_tokens"]
    yield _perplexity("generative_perplexity", source, nats, tokens, resamples)
    if "parsed_sentences" in texts:
        yield _ratio("parsed_fraction", source, texts["parsed_sentences"], texts["sentences"], resamples)


def _statement_rows(
    rows: pd.DataFrame, source: str, world: World, frequency: pd.Series, n_texts: int, resamples: int
) -> Iterator[pd.DataFrame]:
    """Metrics of the statements in texts, for synthetic text also by frequency."""
    rows = rows.assign(
        subject=rows["text_index"],
        is_true=(rows["verdict"] == "true").astype(float),
        is_unknown=(rows["verdict"] == "unknown").astype(float),
        frequency=rows["fact_id"].map(frequency),
    )
    group = "all" if source == "synthetic" else source
    if len(rows):
        columns = {"fact_precision": "is_true", "unknown_fraction": "is_unknown"}
        yield _means(rows, columns, group, resamples, "texts")
    n_true = rows["fact_id"][rows["verdict"] == "true"].value_counts().reindex(frequency.index, fill_value=0)
    facts = pd.DataFrame(
        {"subject": n_true.index.str.split(".").str[0], "is_covered": (n_true > 0).astype(float)}, index=n_true.index
    )
    yield _means(facts, {"coverage": "is_covered"}, group, resamples)
    yield _means(facts[frequency == "tail"], {"tail_coverage": "is_covered"}, group, resamples)
    if source == "synthetic":
        for name in FREQUENCIES:
            yield _means(facts[frequency == name], {"coverage": "is_covered"}, name, resamples)
            if (frequency_rows := rows[rows["frequency"] == name]).size:
                yield _means(frequency_rows, {"fact_precision": "is_true"}, name, resamples, "texts")
    yield _without_interval("statements_per_text", group, n_texts, len(rows) / n_texts)
    exposures = world.facts.set_index("fact_id")["exposures"].reindex(n_true.index)
    for metric, value in divergence(n_true.to_numpy(float), exposures.to_numpy(float)).items():
        yield _without_interval(metric, group, int(n_true.sum()), value)


def divergence(n_stated: np.ndarray, exposures: np.ndarray) -> dict[str, float]:
    """Distance of the distribution of correctly stated facts from the distribution of facts in the real corpus.

    Total variation, Hellinger distance, Kullback-Leibler divergence of the former from the latter (nats), and the entropy
    of the former divided by that of the latter (evenness). NaN if no fact is stated. A small number of statements is far
    from any distribution: compare with the same number of real texts.
    """
    names = ("divergence_tv", "divergence_hellinger", "divergence_kl", "evenness")
    if not n_stated.sum():
        return dict.fromkeys(names, float("nan"))
    q, p = n_stated / n_stated.sum(), exposures / exposures.sum()
    support = q > 0
    entropy = -(q[support] * np.log(q[support])).sum()
    values = (
        np.abs(q - p).sum() / 2,
        np.sqrt(((np.sqrt(q) - np.sqrt(p)) ** 2).sum() / 2),
        (q[support] * np.log(q[support] / p[support])).sum(),
        entropy / -(p[p > 0] * np.log(p[p > 0])).sum(),
    )
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _means(
    rows: pd.DataFrame, columns: dict[str, str], group: str, resamples: int, interval_over: str = "facts"
) -> pd.DataFrame:
    values = rows[list(columns.values())].astype(float).to_numpy()
    interval = stats.cluster_bootstrap(values, rows["subject"].to_numpy(), resamples=resamples)
    return stats.summary_rows({"group": group}, list(columns), interval, interval_over=interval_over)


def _without_interval(metric: str, group: str, n: int, value: float) -> pd.DataFrame:
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
    metric: str, group: str, numerator: pd.Series, denominator: pd.Series, resamples: int, exp: bool = False
) -> pd.DataFrame:
    """Ratio of two sums over texts, with an interval over resampled texts."""
    terms = np.stack([numerator.to_numpy(float), denominator.to_numpy(float)], 1)
    sums = np.random.default_rng(0).multinomial(len(terms), np.full(len(terms), 1 / len(terms)), size=resamples) @ terms
    with np.errstate(invalid="ignore", divide="ignore"):
        value, ratios = terms[:, 0].sum() / terms[:, 1].sum(), sums[:, 0] / sums[:, 1]
    low, high = (
        np.nanquantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if np.isfinite(ratios).any() else (np.nan, np.nan)
    )
    value, low, high = np.exp([value, low, high]) if exp else (value, low, high)
    return _without_interval(metric, group, len(terms), value).assign(ci_low=low, ci_high=high, interval_over="texts")


def _perplexity(metric: str, group: str, nats: pd.Series, tokens: pd.Series, resamples: int) -> pd.DataFrame:
    return _ratio(metric, group, nats, tokens, resamples, exp=True)
