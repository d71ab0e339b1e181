"""Where to edit: every token and block tried in turn, and how well cheaper ways of choosing predict the best place."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
import pandas as pd

from factlife import stats
from factlife.config.editing import Editor, EditSite, SiteSweep
from factlife.editing.editable import EditableModel, apply_deltas
from factlife.editing.editors import EDITORS
from factlife.editing.evaluate import evaluate_probes
from factlife.editing.requests import EditError, separate_same_subject, usable_probes

_SCORED = ["efficacy", "paraphrase", "neighbourhood"]
_COLUMNS_OF_SWEEP = ["edit_id", "probe_id", "metric", "fact_id", "probability", "argmax", "generation"]
_SHOWN = [*_SCORED, "recall", "same_subject"]


def site_at(place: EditSite, token: str, layer: int) -> EditSite:
    """A place with as many layers as another, the chosen one last."""
    return EditSite(fact_token=token, layers=list(range(max(0, layer - len(place.layers) + 1), layer + 1)))


def sweep_sites(
    target: EditableModel, requests: pd.DataFrame, probes: pd.DataFrame, editor: Editor, settings: SiteSweep,
    *, batch_tokens: int = 8192,
) -> pd.DataFrame:  # fmt: skip
    """Write the same batch at every token and block in turn, and judge it.

    Args:
        target: the model; its weights have the same bits when this returns.
        requests: validated; those that were dropped are left out.
        probes: of ``requests``.
        editor: a closed form; its place says how many layers are written.
        settings: how many requests, and whether only one of each subject.
        batch_tokens: tokens in a batch of probes; no verdict depends on it.

    Returns:
        One row per token, layer and probe: ``token, layer, edit_id, probe_id, metric, about, argmax, probability,
        generation``. A place where the editor cannot write is left out, and the log says why.
    """
    requests = requests[requests["dropped"] == ""]
    if settings.unique_subjects:
        requests = requests.drop_duplicates("subject")
    requests = requests.head(settings.n_edits).reset_index(drop=True)
    edited = set(requests["edit_id"])
    asked = separate_same_subject(usable_probes(probes, edited, edited), set(requests["entity_id"]))
    asked = asked[asked["metric"].isin(_SHOWN)].reset_index(drop=True)
    logging.info("%d requests about %d subjects at every place", len(requests), requests["subject"].nunique())
    parts = []
    for token in settings.fact_tokens:
        for layer in _layers_to_try(target, settings):
            here = editor.model_copy(update=site_at(editor.site, token, layer).model_dump())
            try:
                deltas = EDITORS[editor.kind](target, requests, here, {})
                with apply_deltas(target.model, deltas):
                    verdicts = evaluate_probes(target.model, target.tokenizer, asked, batch_tokens=batch_tokens)
            except EditError as problem:
                logging.warning("%s, block %d cannot be edited: %s", token, layer, problem)
                continue
            rows = pd.concat([asked, verdicts], axis=1)[_COLUMNS_OF_SWEEP]
            rows.insert(0, "fact_token", token)
            rows.insert(1, "layer", layer)
            parts.append(rows)
            means = rows.groupby("metric")["argmax"].mean()
            logging.info("%s, block %d: %s", token, layer, ", ".join(f"{k} {v:.3f}" for k, v in means.items()))
    if not parts:
        raise EditError("the editor cannot write at any place; the log says why at each")
    return pd.concat(parts, ignore_index=True)


def compare_sites(
    target: EditableModel, requests: pd.DataFrame, probes: pd.DataFrame, editor: Editor | None, settings: SiteSweep,
    *, trace: pd.DataFrame | None, batch_tokens: int = 8192, resamples: int = 1000,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Verdicts of ``sweep``, none without an editor, and the table of ``summarise``."""
    layers = len(target.parts.blocks)
    swept = pd.DataFrame(columns=["fact_token", "layer", *_COLUMNS_OF_SWEEP])
    if editor is not None:
        swept = sweep_sites(target, requests, probes, editor, settings, batch_tokens=batch_tokens)
    every = pd.DataFrame(
        list(itertools.product(settings.fact_tokens, _layers_to_try(target, settings))), columns=["fact_token", "layer"]
    )
    return swept, summarise_sites(
        swept, predict_effects(trace, every, settings.depth_fraction, layers), resamples=resamples
    )


def add_keys(table: pd.DataFrame, *, model: str, seed: int, editor: str | None) -> pd.DataFrame:
    """With the key columns of ``edit_sites.csv`` before those of ``summarise``."""
    keys = pd.DataFrame({"model": model, "seed": seed, "editor": editor or ""}, index=table.index)
    return pd.concat([keys, table], axis=1)


def _layers_to_try(target: EditableModel, settings: SiteSweep) -> list[int]:
    return [target.layer(layer) for layer in settings.layers] or list(range(len(target.parts.blocks)))


def predict_effects(trace: pd.DataFrame | None, places: pd.DataFrame, depth: float, layers: int) -> pd.DataFrame:
    """What each way of choosing thinks of each place.

    - ``tracing``, ``tracing-noise``: what restoring one block's MLP there brings back of the answer's logit, by causal
      tracing with another subject or with noise (Meng et al. 2022); ``tracing-window`` with the widest window.
    - ``frozen``: what restoring the residual stream there brings back by way of later MLPs: its effect less that with
      those MLPs frozen (Meng et al. 2022, figure 3; how MEMIT chooses its layers).
    - ``depth``: nearness to a share of the depth, at the subject's last token, as published editors are placed.

    Args:
        trace: the model's causal traces, or None if it was not traced; facts that it does not know do not count.
        places: the ``token`` and ``layer`` that there are.
        depth: share of the depth, 0 for the first block and 1 for the last.
        layers: blocks of the model.

    Returns:
        One row per chooser and place: ``chooser, token, layer, effect``.
    """
    near = -(places["layer"] - depth * (layers - 1)).abs() - layers * (places["fact_token"] != "subject_last")
    parts = [places.assign(choose_by="depth", effect=near)]
    if trace is not None:
        trace = trace[trace["exclusion_reason"].isna() & trace["known"].fillna(False).astype(bool)]
        wide = trace.loc[trace["component"] == "mlp", "window"].max()
        mean = trace.groupby(["corruption", "component", "window", "token_role", "layer"])[
            "indirect_effect_logit_diff"
        ].mean()

        def of(corruption: str, component: str, window: Any = 1) -> pd.Series:
            wanted = pd.MultiIndex.from_frame(places[["fact_token", "layer"]].astype({"layer": int}))
            found = mean.xs((corruption, component, window), level=[0, 1, 2], drop_level=True)
            return pd.Series(found.reindex(wanted).to_numpy(float), index=places.index)

        told = set(zip(trace["corruption"], trace["component"], strict=True))
        ways = {
            "tracing": ("replacement", "mlp", 1),
            "tracing-noise": ("noise", "mlp", 1),
            "tracing-window": ("replacement", "mlp", wide),
        }
        parts += [places.assign(choose_by=chooser, effect=of(*way)) for chooser, way in ways.items() if way[:2] in told]
        if {("replacement", "residual"), ("replacement", "residual_mlp_frozen")} <= told:
            through = of("replacement", "residual") - of("replacement", "residual_mlp_frozen")
            parts.append(places.assign(choose_by="tracing-severed", effect=through))
    return pd.concat(parts, ignore_index=True).dropna(subset="effect")


def choose_sites(found: pd.DataFrame) -> pd.DataFrame:
    """The place that each chooser thinks most of: ``chooser, token, layer, effect``, one row each."""
    return found.loc[
        found.groupby("choose_by", sort=False)["effect"].idxmax(), ["choose_by", "fact_token", "layer", "effect"]
    ]


def score_sites(verdicts: pd.DataFrame, *, resamples: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Harmonic mean of efficacy, paraphrase and neighbourhood by argmax, of every place.

    Args:
        verdicts: of ``sweep``.
        resamples: bootstrap resamples of edited subjects, the same at all places.

    Returns:
        The places; their scores, (place,); and resampled ones, (resample, place).
    """
    rows = verdicts[verdicts["metric"].isin(_SCORED)]
    rows = rows.assign(subject=rows["edit_id"].str.split(".").str[0], right=rows["argmax"].astype(float))
    places = rows[["fact_token", "layer"]].drop_duplicates().reset_index(drop=True)
    index = pd.MultiIndex.from_frame(places)
    subjects = np.sort(rows["subject"].unique())
    draws = np.random.default_rng(0).multinomial(
        len(subjects), np.full(len(subjects), 1 / len(subjects)), size=resamples
    )
    weights = np.vstack([np.ones((1, len(subjects))), draws])
    means = []
    for metric in _SCORED:
        by = rows[rows["metric"] == metric].groupby(["subject", "fact_token", "layer"])["right"].agg(["sum", "count"])
        total, count = (
            by[column].unstack([1, 2], fill_value=0).reindex(subjects, fill_value=0)[index]
            for column in ("sum", "count")
        )
        means.append((weights @ total.to_numpy(float)) / (weights @ count.to_numpy(float)))
    with np.errstate(divide="ignore"):
        every = 3 / sum(1 / mean for mean in means)
    return places, every[0], every[1:]


def resolve_site(place: EditSite, table: pd.DataFrame) -> EditSite:
    """The place that its chooser took.

    Args:
        place: as the config has it; ``config`` stays.
        table: of ``summarise``.

    Raises:
        EditError: the chooser could not choose.
    """
    if place.choose_by == "config":
        return place
    rows = table[(table["choose_by"] == place.choose_by) & (table["metric"] == "selection_score")]
    if rows.empty:
        raise EditError(
            f"no site was chosen by `{place.choose_by}`; see the log of sweep_edit_sites, or set `choose_by` to another"
        )
    token, layer = rows[["fact_token", "layer"]].iloc[0]
    logging.info("edited at %s, block %d, chosen by %s", token, layer, place.choose_by)
    return site_at(place, str(token), int(layer))


def summarise_sites(swept: pd.DataFrame, found: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """How good each place is, and how well each chooser predicts it, of one model and seed.

    Args:
        swept: of ``sweep``; empty for none.
        found: of ``effects``.
        resamples: bootstrap resamples of edited subjects.

    Returns:
        Rows ``chooser, token, layer, metric, n, estimate, ci_low, ci_high, interval_over``. Chooser ``each``: every place
        with ``efficacy``, ``paraphrase``, ``neighbourhood``, ``recall``, ``same_subject`` and their ``score``, the harmonic
        mean of the first three. Any other chooser: at its place ``chosen``, what it thinks of it, ``score``, and
        ``regret``, the best place's score less its own; and over all places ``rank_correlation`` (Spearman) of what it
        thinks with the scores. ``sweep`` takes the best place; its score and regret are of the place that is best on one
        half of the subjects, judged on the other, both ways. ``chance`` is the mean over places.
    """
    if swept.empty:
        rows = choose_sites(found).rename(columns={"effect": "estimate"})
        empty = {"metric": "selection_score", "n": 0, "ci_low": np.nan, "ci_high": np.nan, "interval_over": "facts"}
        return rows.assign(**empty)[_COLUMNS].astype({"layer": "Int64"})
    places, own, drawn = score_sites(swept, resamples=resamples)
    parts = [_every_site(swept, resamples)]
    tail = {"n": swept[swept["metric"] == "efficacy"]["edit_id"].nunique(), "interval_over": "facts"}

    def add(chooser: str, token: Any, layer: Any, metric: str, value: float, resampled: np.ndarray | None) -> None:
        low, high = (
            (np.nan, np.nan)
            if resampled is None
            else np.nanquantile(resampled, [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2])
        )
        row = {"choose_by": chooser, "fact_token": token, "layer": layer, "metric": metric, "estimate": value}
        parts.append(pd.DataFrame([row | {"ci_low": low, "ci_high": high} | tail]))

    for place, value, resampled in zip(places.itertuples(), own, drawn.T, strict=True):
        add("every_site", place.fact_token, place.layer, "score", value, resampled)
    best = int(own.argmax())
    for choice in choose_sites(found.merge(places)).itertuples():
        number = int(np.flatnonzero((places["fact_token"] == choice.fact_token) & (places["layer"] == choice.layer))[0])
        add(choice.choose_by, choice.fact_token, choice.layer, "selection_score", choice.effect, None)
        add(choice.choose_by, choice.fact_token, choice.layer, "score", own[number], drawn[:, number])
        regret = drawn[:, best] - drawn[:, number]
        add(choice.choose_by, choice.fact_token, choice.layer, "regret", own[best] - own[number], regret)
        thought = places.merge(found[found["choose_by"] == choice.choose_by], how="left")["effect"].to_numpy(float)
        thought = np.where(np.isnan(thought), np.nanmin(thought) - 1, thought)
        with np.errstate(invalid="ignore", divide="ignore"):
            every = pd.DataFrame(np.vstack([own, drawn]).T)
            correlation = every.rank().corrwith(pd.Series(thought).rank()).to_numpy()
        add(choice.choose_by, choice.fact_token, choice.layer, "rank_correlation", correlation[0], correlation[1:])
    score = _cross_validated_score(swept)
    add("sweep", places["fact_token"][best], places["layer"][best], "selection_score", own[best], drawn[:, best])
    add("sweep", places["fact_token"][best], places["layer"][best], "score", score, None)
    add("sweep", places["fact_token"][best], places["layer"][best], "regret", own[best] - score, None)
    add("chance", "", pd.NA, "score", own.mean(), drawn.mean(1))
    add("chance", "", pd.NA, "regret", own[best] - own.mean(), drawn[:, best] - drawn.mean(1))
    table = pd.concat(parts, ignore_index=True).astype({"layer": "Int64"})
    return table[_COLUMNS]


_COLUMNS = ["choose_by", "fact_token", "layer", "metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]


def _every_site(swept: pd.DataFrame, resamples: int) -> pd.DataFrame:
    about, edit = (swept[column].str.split(".").str[0] for column in ("fact_id", "edit_id"))
    rows = swept.assign(subject=edit.where(swept["edit_id"] != "", about))
    parts = []
    for (token, layer, metric), group in rows.groupby(["fact_token", "layer", "metric"], sort=False):
        interval = stats.cluster_bootstrap(
            group[["argmax"]].astype("Float64").to_numpy(float, na_value=np.nan),
            group["subject"].to_numpy(),
            resamples=resamples,
        )
        parts.append(
            stats.summary_rows({"choose_by": "every_site", "fact_token": token, "layer": layer}, [metric], interval)
        )
    return pd.concat(parts, ignore_index=True)


def _cross_validated_score(swept: pd.DataFrame) -> float:
    """Score of the place that is best on one half of the subjects, on the other half; the mean of both ways."""
    subject = swept["edit_id"].str.split(".").str[0]
    first = set(np.sort(subject[swept["edit_id"] != ""].unique())[::2])
    halves = [score_sites(swept[subject.isin(first) == side], resamples=1)[1] for side in (True, False)]
    return float(np.mean([judged[chosen.argmax()] for chosen, judged in (halves, halves[::-1])]))
