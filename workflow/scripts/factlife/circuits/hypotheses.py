"""Hypotheses: what a part of a model is said to do, tested by knocking it out on held-out subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from factlife import stats
from factlife.circuits.attribution import CircuitModel, PromptPairs
from factlife.circuits.edges import CircuitError, ComputationGraph, logit_difference
from factlife.circuits.validation import run_circuits
from factlife.config.circuits import Hypothesis
from factlife.models.anatomy import patch
from factlife.saes.activations import DictionarySite
from factlife.saes.dictionary import Dictionary, load_dictionary

ALPHA = 0.05
_EXACT = 12
_DRAWS = 10000


@dataclass(frozen=True)
class HypothesisPrompts:
    """Held-out prompts of a relation and kind.

    Attributes:
        test: paired with subjects who have another answer.
        control: paired with subjects who have the same answer.
    """

    test: Sequence[PromptPairs]
    control: Sequence[PromptPairs]


def exploratory_hypotheses(
    graph: ComputationGraph, scores: Mapping[str, Tensor], count: int, smallest_effect: float
) -> dict[str, Hypothesis]:
    """For each relation, the parts whose edges have the largest scores, and as many of those with the smallest.

    The latter are the control: they should be refuted.

    Args:
        graph: of the model.
        scores: of edges by relation, (writer, reader).
        count: parts of either kind for each relation.
        smallest_effect: of interest.
    """
    found = {}
    # ``model`` says for whom a stated hypothesis is; these are for the model at hand.
    for relation, score in scores.items():
        sizes = (score * graph.edges).abs().sum(1)[1:]
        order = (sizes.argsort(descending=True) + 1).tolist()
        for kind, rows in (("strongest", order[:count]), ("weakest", order[max(count, len(order) - count) :])):
            for row in rows:
                part = graph.writers[row]
                found[f"{relation}-{kind}-{part}"] = Hypothesis(
                    claim=f"One of the {kind} parts for {relation}", model="this", component=part,
                    relation=relation, smallest_effect=smallest_effect,
                )  # fmt: skip
    return found


def evaluate_hypotheses(
    edges: CircuitModel,
    prompts: Mapping[tuple[str, str], HypothesisPrompts],
    stated: Mapping[str, Hypothesis],
    generated: Mapping[str, Hypothesis],
    *,
    resamples: int,
    batch_tokens: int,
    dictionaries: Mapping[str, str | Path] | None = None,
) -> pd.DataFrame:
    """Test hypotheses: knock the part out, so that all that read it get what it wrote in the corrupted run.

    The effect is the share of the logit difference that is lost, (m(M) − m(M without the part)) / (m(M) − m(∅)).

    Args:
        edges: the model.
        prompts: held-out prompts of each relation and kind.
        stated: hypotheses that were written before looking; their p are corrected by Holm's method.
        generated: those that ``exploratory_hypotheses`` made; theirs by Benjamini and Hochberg's.
        resamples: bootstrap resamples of subjects behind intervals.
        batch_tokens: tokens in a forward pass.
        dictionaries: folders of sparse autoencoders by name, for hypotheses about features.

    Returns:
        Per hypothesis rows of ``effect``, ``control_effect`` (the same on control prompts, as a share of the same logit
        difference), ``sensitivity`` (prompts with at least the smallest effect of interest) and ``specificity`` (control prompts
        with less). ``p`` is of a sign-flip test over subjects, one-sided in the stated direction. ``verdict``:
        *supported* if p_corrected < .05 and the effect is at least the smallest of interest, *refuted* if the whole
        interval is below that, else *inconclusive*.

    Raises:
        CircuitError: a hypothesis names a part that the model or an autoencoder does not have, or a relation that was
            not asked.
    """
    rows = []
    relations = list(dict.fromkeys(relation for relation, _ in prompts))
    for kind, group in (("confirmatory", stated), ("exploratory", generated)):
        for name, hypothesis in group.items():
            asked = [hypothesis.relation, *({hypothesis.control} - {"same_answer"})]
            if unknown := [relation for relation in asked if relation not in relations]:
                raise CircuitError(
                    f"hypothesis `{name}` is about relation `{unknown[0]}`, whose circuit is not looked for; there are "
                    f"{', '.join(relations)}"
                )
            if (asked[0], hypothesis.probe_kind) not in prompts:
                raise CircuitError(
                    f"hypothesis `{name}` asks for {hypothesis.probe_kind} prompts, of which there are too few"
                )
            ours = prompts[asked[0], hypothesis.probe_kind]
            if len(asked) > 1:
                other = prompts.get((asked[1], hypothesis.probe_kind))
                ours = HypothesisPrompts(ours.test, other.test if other else [])
            if hypothesis.feature:
                without = partial(_without_feature, edges, load_feature(edges, hypothesis, name, dictionaries or {}))
            else:
                mask = ablation_mask(edges.graph, hypothesis.component, name)
                without = partial(_without_part, edges, mask, batch_tokens)
            rows.append(_tested(edges, ours, without, hypothesis, resamples))
            rows[-1] = rows[-1].assign(hypothesis=name, kind=kind, **hypothesis.model_dump(exclude={"model"}))
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(rows, ignore_index=True)
    for kind, method in (("confirmatory", "holm"), ("exploratory", "fdr_bh")):
        of_kind = table[table["kind"] == kind].drop_duplicates("hypothesis").set_index("hypothesis")["p"]
        if len(of_kind):
            corrected = pd.Series(multipletests(of_kind, method=method)[1], index=of_kind.index)
            chosen = table["kind"] == kind
            table.loc[chosen, "p_corrected"] = table.loc[chosen, "hypothesis"].map(corrected)
    effects = table[table["metric"] == "effect"].set_index("hypothesis")
    verdicts = {name: verdict(row) for name, row in effects.iterrows()}
    return table.assign(verdict=table["hypothesis"].map(verdicts))[COLUMNS]


COLUMNS = [
    "hypothesis", "metric", "n", "estimate", "ci_low", "ci_high", "interval_over", "p", "p_corrected", "verdict", "kind",
    "component", "relation", "probe_kind", "control", "direction", "smallest_effect", "claim",
]  # fmt: skip


def verdict(row: Any) -> str:
    """Of a hypothesis, from its effect in the stated direction, interval and corrected p."""
    sign = 1 if row["direction"] == "lowers" else -1
    estimate, upper = sign * row["estimate"], max(sign * row["ci_low"], sign * row["ci_high"])
    if row["p_corrected"] < ALPHA and estimate >= row["smallest_effect"]:
        return "supported"
    return "refuted" if upper < row["smallest_effect"] else "inconclusive"


def ablation_mask(graph: ComputationGraph, component: str, name: str) -> Tensor:
    """All edges but those out of a part: a head ``a1.h3``, all heads of a layer ``a1``, or an MLP ``m1``.

    Raises:
        CircuitError: the model has no such part; ``name`` is of the hypothesis that says so.
    """
    rows = [row for row, writer in enumerate(graph.writers) if component in (writer, writer.split(".")[0]) and row]
    if not rows:
        raise CircuitError(
            f"hypothesis `{name}` names `{component}`, which the model does not have: it has layers 0 to "
            f"{graph.n_layers - 1} with heads 0 to {graph.n_heads - 1}, such as a0, a0.h0 and m0"
        )
    mask = graph.edges.clone()
    mask[rows] = False
    return mask


class DictionaryFeature(NamedTuple):
    """A feature of a sparse autoencoder or transcoder, and where that sits."""

    dictionary: Dictionary
    site: DictionarySite
    number: int


def load_feature(
    edges: CircuitModel, hypothesis: Hypothesis, name: str, dictionaries: Mapping[str, str | Path]
) -> DictionaryFeature:
    """The feature that a hypothesis names.

    Raises:
        CircuitError: there is no such autoencoder, layer or feature, or it is of another width than the model.
    """
    sae, layer, number = hypothesis.feature
    if sae not in dictionaries:
        raise CircuitError(
            f"hypothesis `{name}` names autoencoder `{sae}`; there are {', '.join(dictionaries) or 'none'}"
        )
    if not (Path(dictionaries[sae]) / layer).is_dir():
        last = edges.parts.n_layers - 1
        raise CircuitError(f"hypothesis `{name}` names {layer} of `{sae}`, which has layer-0 to layer-{last}")
    dictionary = load_dictionary(Path(dictionaries[sae]) / layer, str(edges.model.device))
    if number >= dictionary.d_sae:
        raise CircuitError(
            f"hypothesis `{name}` names feature {number} of {sae}/{layer}, which has features 0 to {dictionary.d_sae - 1}"
        )
    if dictionary.d_in != edges.parts.d_model:
        raise CircuitError(f"{sae}/{layer} reads width {dictionary.d_in}; the model has {edges.parts.d_model}")
    reads, writes = (edges.model.get_submodule(dictionary.metadata[key]) for key in ("hook_name", "hook_name_out"))
    return DictionaryFeature(dictionary, DictionarySite(reads, dictionary.metadata["hook_reads_input"], writes), number)


def _without_part(edges: CircuitModel, mask: Tensor, batch_tokens: int, batches: Sequence[PromptPairs]) -> np.ndarray:
    return run_circuits(edges, batches, [mask], batch_tokens=batch_tokens).differences[0]


def _without_feature(edges: CircuitModel, feature: DictionaryFeature, batches: Sequence[PromptPairs]) -> np.ndarray:
    """Logit differences of clean runs in which a feature is as active as in the corrupted run, (pair,)."""
    dictionary, site, number = feature
    found = []
    for batch in batches:
        active: list[Tensor] = []

        def look(hidden: Tensor, active: list[Tensor] = active) -> None:
            active.append(dictionary.encode(hidden)[..., number])

        def change(hidden: Tensor, active: list[Tensor] = active) -> Tensor:
            return hidden + (active[0] - active[1])[..., None] * dictionary.W_dec[number]

        with torch.no_grad(), patch(site.input_module, look, inputs=site.reads_input):
            edges.model.base_model(inputs_embeds=batch.corrupted, use_cache=False)
            with patch(site.output_module, change):
                logits = edges.model(inputs_embeds=batch.clean, use_cache=False, logits_to_keep=1).logits[:, -1]
        found.append(logit_difference(logits, batch.answers).double().cpu())
    return torch.cat(found).numpy()


def _tested(
    edges: CircuitModel,
    prompts: HypothesisPrompts,
    without: Callable[[Sequence[PromptPairs]], np.ndarray],
    hypothesis: Hypothesis,
    resamples: int,
) -> pd.DataFrame:
    sign = 1 if hypothesis.direction == "lowers" else -1
    scale, parts, p = 1.0, [], 1.0
    for metrics, batches in (
        (("effect", "sensitivity"), prompts.test),
        (("control_effect", "specificity"), prompts.control),
    ):
        if not batches:
            continue
        measured = run_circuits(edges, batches, [])
        if metrics[0] == "effect":
            scale = (measured.full - measured.empty).mean()
        lost = (measured.full - without(batches)) / scale
        large = sign * lost >= hypothesis.smallest_effect
        values = np.stack([lost, large if metrics[0] == "effect" else ~large], 1)
        parts.append(
            stats.summary_rows(
                {}, list(metrics), stats.cluster_bootstrap(values, measured.subjects, resamples=resamples)
            )
        )
        if metrics[0] == "effect":
            p = sign_flip_p(sign * pd.Series(lost).groupby(measured.subjects).mean().to_numpy())
    return pd.concat(parts).assign(p=p)


def sign_flip_p(values: np.ndarray, *, seed: int = 0) -> float:
    """One-sided p of a mean above 0: the share of sign flips whose mean is as large (exact for 12 values or fewer).

    Under the null hypothesis every value is as likely with the other sign (Fisher 1935, chapter 3).
    """
    n, observed = len(values), values.mean()
    if n <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(((signs @ values) / n >= observed - 1e-12).mean())
    signs = np.random.default_rng(seed).choice([-1, 1], size=(_DRAWS, n))
    return float((1 + ((signs @ values) / n >= observed - 1e-12).sum()) / (1 + _DRAWS))
