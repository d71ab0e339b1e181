"""Edit sites: edits at every token and layer in turn, and how well cheaper criteria predict the best site."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
import pandas as pd

from factlife import stats
from factlife.config.editing import ClosedFormEditor, EditSite, FactToken, SiteSweep
from factlife.editing.editable import EditableModel, apply_deltas
from factlife.editing.editors import compute_deltas
from factlife.editing.evaluate import evaluate_probes
from factlife.editing.requests import EditError, separate_same_subject, usable_probes

_SCORE_METRICS = ["efficacy", "paraphrase", "neighbourhood"]
_SWEEP_COLUMNS = ["edit_id", "probe_id", "metric", "fact_id", "probability", "argmax", "generation"]
_SWEEP_METRICS = [*_SCORE_METRICS, "recall", "same_subject"]
_COLUMNS = ["choose_by", "fact_token", "layer", "metric", "n", "estimate", "ci_low", "ci_high", "interval_over"]


def site_at(site: EditSite, fact_token: FactToken, layer: int) -> EditSite:
    """A site with the same number of layers as another, ending at ``layer``."""
    first = max(0, layer - len(site.layers) + 1)
    return EditSite(fact_token=fact_token, layers=list(range(first, layer + 1)))


def sweep_sites(
    target: EditableModel, requests: pd.DataFrame, probes: pd.DataFrame, editor: ClosedFormEditor, settings: SiteSweep,
    *, batch_tokens: int = 8192,
) -> pd.DataFrame:  # fmt: skip
    """Edit the same batch at every token and layer in turn, and evaluate it.

    Args:
        target: the model; its weights have the same bits when this returns.
        requests: validated; dropped ones are skipped.
        probes: as in ``requests``.
        editor: a closed-form editor; its site gives the number of layers.
        settings: the number of requests, and whether to take only one per subject.
        batch_tokens: tokens per batch of probes; results do not depend on it.

    Returns:
        One row per token, layer and probe: ``fact_token, layer, edit_id, probe_id, metric, fact_id, argmax, probability,
        generation``. Sites where the editor fails are left out, and the log gives the reason.
    """
    requests = requests[requests["dropped"] == ""]
    if settings.unique_subjects:
        requests = requests.drop_duplicates("subject")
    requests = requests.head(settings.n_edits).reset_index(drop=True)
    edit_ids = set(requests["edit_id"])
    probes = separate_same_subject(usable_probes(probes, edit_ids, edit_ids), set(requests["entity_id"]))
    probes = probes[probes["metric"].isin(_SWEEP_METRICS)].reset_index(drop=True)
    logging.info("%d requests about %d subjects at every site", len(requests), requests["subject"].nunique())
    parts = []
    for fact_token in settings.fact_tokens:
        for layer in _layers_to_try(target, settings):
            site_editor = editor.model_copy(update=site_at(editor.site, fact_token, layer).model_dump())
            try:
                deltas = compute_deltas(site_editor, target, requests, {})
                with apply_deltas(target.model, deltas):
                    results = evaluate_probes(target.model, target.tokenizer, probes, batch_tokens=batch_tokens)
            except EditError as error:
                logging.warning("%s, block %d cannot be edited: %s", fact_token, layer, error)
                continue
            rows = pd.concat([probes, results], axis=1)[_SWEEP_COLUMNS]
            rows.insert(0, "fact_token", fact_token)
            rows.insert(1, "layer", layer)
            parts.append(rows)
            means = rows.groupby("metric")["argmax"].mean()
            logging.info("%s, block %d: %s", fact_token, layer, ", ".join(f"{k} {v:.3f}" for k, v in means.items()))
    if not parts:
        raise EditError("the editor fails at every site; the log gives the reasons")
    return pd.concat(parts, ignore_index=True)


def compare_sites(
    target: EditableModel, requests: pd.DataFrame, probes: pd.DataFrame, editor: ClosedFormEditor | None, settings: SiteSweep,
    *, trace: pd.DataFrame | None, batch_tokens: int = 8192, resamples: int = 1000,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Results of ``sweep_sites``, empty without an editor, and the table of ``summarise_sites``."""
    n_layers = len(target.parts.blocks)
    sweep = pd.DataFrame(columns=["fact_token", "layer", *_SWEEP_COLUMNS])
    if editor is not None:
        sweep = sweep_sites(target, requests, probes, editor, settings, batch_tokens=batch_tokens)
    pairs = itertools.product(settings.fact_tokens, _layers_to_try(target, settings))
    sites = pd.DataFrame(list(pairs), columns=["fact_token", "layer"])
    effects = predict_effects(trace, sites, settings.depth_fraction, n_layers)
    return sweep, summarise_sites(sweep, effects, resamples=resamples)


def add_keys(table: pd.DataFrame, *, model: str, seed: int, editor: str | None) -> pd.DataFrame:
    """The table with the key columns of ``edit_sites.csv`` in front."""
    keys = pd.DataFrame({"model": model, "seed": seed, "editor": editor or ""}, index=table.index)
    return pd.concat([keys, table], axis=1)


def _layers_to_try(target: EditableModel, settings: SiteSweep) -> list[int]:
    return [target.layer_index(layer) for layer in settings.layers] or list(range(len(target.parts.blocks)))


def predict_effects(
    trace: pd.DataFrame | None, sites: pd.DataFrame, depth_fraction: float, n_layers: int
) -> pd.DataFrame:
    """The effect that each criterion predicts for each site.

    - ``tracing``, ``tracing-noise``: indirect effect of one block's MLP on the answer's logit, by causal tracing with
      another subject or with noise (Meng et al. 2022); ``tracing-window``: with the widest window.
    - ``tracing-mlp-frozen``: indirect effect of the residual stream that is mediated by later MLPs: its effect minus the
      effect with these MLPs frozen (Meng et al. 2022, figure 3; MEMIT's criterion for its layers).
    - ``depth``: closeness to a relative depth, at the subject's last token, as in published editors.

    Args:
        trace: the model's causal traces, or None if it was not traced; facts that it does not know are ignored.
        sites: the ``fact_token`` and ``layer`` of every site.
        depth_fraction: relative depth, 0 for the first block and 1 for the last.
        n_layers: blocks of the model.

    Returns:
        One row per criterion and site: ``choose_by, fact_token, layer, effect``.
    """
    distance = (sites["layer"] - depth_fraction * (n_layers - 1)).abs()
    parts = [sites.assign(choose_by="depth", effect=-distance - n_layers * (sites["fact_token"] != "subject_last"))]
    if trace is not None:
        trace = trace[trace["exclusion_reason"].isna() & trace["known"].fillna(False).astype(bool)]
        widest = trace.loc[trace["component"] == "mlp", "window"].max()
        mean = trace.groupby(["corruption", "component", "window", "token_role", "layer"])[
            "indirect_effect_logit_diff"
        ].mean()

        def effect(corruption: str, component: str, window: Any = 1) -> pd.Series:
            keys = pd.MultiIndex.from_frame(sites[["fact_token", "layer"]].astype({"layer": int}))
            selected = mean.xs((corruption, component, window), level=[0, 1, 2], drop_level=True)
            return pd.Series(selected.reindex(keys).to_numpy(float), index=sites.index)

        traced = set(zip(trace["corruption"], trace["component"], strict=True))
        criteria = {
            "tracing": ("replacement", "mlp", 1),
            "tracing-noise": ("noise", "mlp", 1),
            "tracing-window": ("replacement", "mlp", widest),
        }
        parts += [
            sites.assign(choose_by=name, effect=effect(*criterion))
            for name, criterion in criteria.items()
            if criterion[:2] in traced
        ]
        if {("replacement", "residual"), ("replacement", "residual_mlp_frozen")} <= traced:
            mediated = effect("replacement", "residual") - effect("replacement", "residual_mlp_frozen")
            parts.append(sites.assign(choose_by="tracing-mlp-frozen", effect=mediated))
    return pd.concat(parts, ignore_index=True).dropna(subset="effect")


def choose_sites(effects: pd.DataFrame) -> pd.DataFrame:
    """The site with the largest predicted effect, one row per criterion: ``choose_by, fact_token, layer, effect``."""
    best = effects.groupby("choose_by", sort=False)["effect"].idxmax()
    return effects.loc[best, ["choose_by", "fact_token", "layer", "effect"]]


def score_sites(sweep: pd.DataFrame, *, resamples: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Harmonic mean of efficacy, paraphrase and neighbourhood (argmax) of every site.

    Args:
        sweep: as returned by ``sweep_sites``.
        resamples: bootstrap resamples of edited subjects, the same at all sites.

    Returns:
        The sites; their scores, (site,); and resampled scores, (resample, site).
    """
    rows = sweep[sweep["metric"].isin(_SCORE_METRICS)]
    rows = rows.assign(subject=rows["edit_id"].str.split(".").str[0], is_correct=rows["argmax"].astype(float))
    sites = rows[["fact_token", "layer"]].drop_duplicates().reset_index(drop=True)
    index = pd.MultiIndex.from_frame(sites)
    subjects = np.sort(rows["subject"].unique())
    draws = np.random.default_rng(0).multinomial(
        len(subjects), np.full(len(subjects), 1 / len(subjects)), size=resamples
    )
    weights = np.vstack([np.ones((1, len(subjects))), draws])
    means = []
    for metric in _SCORE_METRICS:
        groups = rows[rows["metric"] == metric].groupby(["subject", "fact_token", "layer"])
        sums = groups["is_correct"].agg(["sum", "count"])
        total, count = (
            sums[column].unstack([1, 2], fill_value=0).reindex(subjects, fill_value=0)[index]
            for column in ("sum", "count")
        )
        means.append((weights @ total.to_numpy(float)) / (weights @ count.to_numpy(float)))
    with np.errstate(divide="ignore"):
        scores = 3 / sum(1 / mean for mean in means)
    return sites, scores[0], scores[1:]


def resolve_site(site: EditSite, table: pd.DataFrame) -> EditSite:
    """The site that the criterion ``choose_by`` chose.

    Args:
        site: from the config; with ``choose_by: config`` it is returned unchanged.
        table: as returned by ``summarise_sites``.

    Raises:
        EditError: the criterion chose no site.
    """
    if site.choose_by == "config":
        return site
    rows = table[(table["choose_by"] == site.choose_by) & (table["metric"] == "selection_score")]
    if rows.empty:
        raise EditError(
            f"no site was chosen by `{site.choose_by}`; see the log of sweep_edit_sites, or set `choose_by` to another"
        )
    fact_token, layer = rows[["fact_token", "layer"]].iloc[0]
    logging.info("editing at %s, block %d, chosen by %s", fact_token, layer, site.choose_by)
    return site_at(site, fact_token, int(layer))


def summarise_sites(sweep: pd.DataFrame, effects: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Quality of each site, and of each criterion's predictions, for one model and seed.

    Args:
        sweep: as returned by ``sweep_sites``; may be empty.
        effects: as returned by ``predict_effects``.
        resamples: bootstrap resamples of edited subjects.

    Returns:
        Rows ``choose_by, fact_token, layer, metric, n, estimate, ci_low, ci_high, interval_over``. ``every_site``: each site
        with ``efficacy``, ``paraphrase``, ``neighbourhood``, ``recall``, ``same_subject`` and their ``score``, the harmonic
        mean of the first three. A criterion: at its chosen site ``selection_score``, the predicted effect, ``score``, and
        ``regret``, the best site's score minus its own; and over all sites ``rank_correlation`` (Spearman) of predicted
        effects with scores. ``sweep`` chooses the best site; its score and regret are cross-validated: the site is chosen on
        one half of the subjects and scored on the other, in both directions. ``chance`` is the mean over sites.
    """
    if sweep.empty:
        rows = choose_sites(effects).rename(columns={"effect": "estimate"})
        blank = {"metric": "selection_score", "n": 0, "ci_low": np.nan, "ci_high": np.nan, "interval_over": "facts"}
        return rows.assign(**blank)[_COLUMNS].astype({"layer": "Int64"})
    sites, scores, resampled = score_sites(sweep, resamples=resamples)
    parts = [_every_site(sweep, resamples)]
    shared = {"n": sweep[sweep["metric"] == "efficacy"]["edit_id"].nunique(), "interval_over": "facts"}

    def add(choose_by: str, site: tuple[Any, Any], metric: str, value: Any, samples: np.ndarray | None) -> None:
        low, high = (
            (np.nan, np.nan)
            if samples is None
            else np.nanquantile(samples, [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2])
        )
        row = {"choose_by": choose_by, "fact_token": site[0], "layer": site[1], "metric": metric, "estimate": value}
        parts.append(pd.DataFrame([row | {"ci_low": low, "ci_high": high} | shared]))

    for site, value, samples in zip(sites.itertuples(), scores, resampled.T, strict=True):
        add("every_site", (site.fact_token, site.layer), "score", value, samples)
    best = int(scores.argmax())
    for choice in choose_sites(effects.merge(sites)).itertuples():
        site = (choice.fact_token, choice.layer)
        is_site = (sites["fact_token"] == choice.fact_token) & (sites["layer"] == choice.layer)
        i = int(np.flatnonzero(is_site)[0])
        add(choice.choose_by, site, "selection_score", choice.effect, None)
        add(choice.choose_by, site, "score", scores[i], resampled[:, i])
        regret = resampled[:, best] - resampled[:, i]
        add(choice.choose_by, site, "regret", scores[best] - scores[i], regret)
        predicted = effects[effects["choose_by"] == choice.choose_by]
        effect = sites.merge(predicted, how="left")["effect"].to_numpy(float)
        effect = np.where(np.isnan(effect), np.nanmin(effect) - 1, effect)
        with np.errstate(invalid="ignore", divide="ignore"):
            samples = pd.DataFrame(np.vstack([scores, resampled]).T)
            correlation = samples.rank().corrwith(pd.Series(effect).rank()).to_numpy()
        add(choice.choose_by, site, "rank_correlation", correlation[0], correlation[1:])
    cross_validated = _cross_validated_score(sweep)
    best_site = (sites["fact_token"][best], sites["layer"][best])
    add("sweep", best_site, "selection_score", scores[best], resampled[:, best])
    add("sweep", best_site, "score", cross_validated, None)
    add("sweep", best_site, "regret", scores[best] - cross_validated, None)
    add("chance", ("", pd.NA), "score", scores.mean(), resampled.mean(1))
    add("chance", ("", pd.NA), "regret", scores[best] - scores.mean(), resampled[:, best] - resampled.mean(1))
    table = pd.concat(parts, ignore_index=True).astype({"layer": "Int64"})
    return table[_COLUMNS]


def _every_site(sweep: pd.DataFrame, resamples: int) -> pd.DataFrame:
    fact_subject, edit_subject = (sweep[column].str.split(".").str[0] for column in ("fact_id", "edit_id"))
    rows = sweep.assign(subject=edit_subject.where(sweep["edit_id"] != "", fact_subject))
    parts = []
    for (fact_token, layer, metric), group in rows.groupby(["fact_token", "layer", "metric"], sort=False):
        interval = stats.cluster_bootstrap(
            group[["argmax"]].astype("Float64").to_numpy(float, na_value=np.nan),
            group["subject"].to_numpy(),
            resamples=resamples,
        )
        keys = {"choose_by": "every_site", "fact_token": fact_token, "layer": layer}
        parts.append(stats.summary_rows(keys, [metric], interval))
    return pd.concat(parts, ignore_index=True)


def _cross_validated_score(sweep: pd.DataFrame) -> float:
    """Score of the site that is best on one half of the subjects, on the other half; the mean of both directions."""
    subject = sweep["edit_id"].str.split(".").str[0]
    first_half = set(np.sort(subject[sweep["edit_id"] != ""].unique())[::2])
    halves = [score_sites(sweep[subject.isin(first_half) == side], resamples=1)[1] for side in (True, False)]
    return float(np.mean([scores[selection.argmax()] for selection, scores in (halves, halves[::-1])]))
