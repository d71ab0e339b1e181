"""Hypotheses about components of a model, tested by ablating them on validation subjects."""

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
    """Validation prompts of one relation and probe kind.

    Attributes:
        test: prompts paired with a subject that has a different answer.
        control: prompts paired with a subject that has the same answer.
    """

    test: Sequence[PromptPairs]
    control: Sequence[PromptPairs]


def exploratory_hypotheses(
    graph: ComputationGraph, scores: Mapping[str, Tensor], count: int, smallest_effect: float
) -> dict[str, Hypothesis]:
    """Hypotheses about the components of each relation whose edges have the largest scores, and the smallest.

    Those about the smallest scores are the control: they should be refuted.

    Args:
        graph: the model's graph.
        scores: edge scores by relation, (writer, reader).
        count: components of either kind per relation.
        smallest_effect: smallest effect of interest.
    """
    hypotheses = {}
    for relation, score in scores.items():
        strengths = (score * graph.edges).abs().sum(1)[1:]
        order = (strengths.argsort(descending=True) + 1).tolist()
        for kind, rows in (("strongest", order[:count]), ("weakest", order[max(count, len(order) - count) :])):
            for row in rows:
                component = graph.writers[row]
                hypotheses[f"{relation}-{kind}-{component}"] = Hypothesis(
                    claim=f"One of the {kind} parts for {relation}", component=component, relation=relation,
                    smallest_effect=smallest_effect,
                )  # fmt: skip
    return hypotheses


def evaluate_hypotheses(
    edges: CircuitModel,
    prompts: Mapping[tuple[str, str], HypothesisPrompts],
    confirmatory: Mapping[str, Hypothesis],
    exploratory: Mapping[str, Hypothesis],
    *,
    resamples: int,
    batch_tokens: int,
    dictionaries: Mapping[str, str | Path] | None = None,
) -> pd.DataFrame:
    """Test each hypothesis by ablation: all readers of the component get its output of the corrupted run.

    The effect is the lost fraction of the logit difference, (m(M) − m(M without the component)) / (m(M) − m(∅)).

    Args:
        edges: the model.
        prompts: validation prompts by relation and probe kind.
        confirmatory: hypotheses from the config, stated in advance; p values get Holm's correction.
        exploratory: hypotheses from ``exploratory_hypotheses``; p values get Benjamini and Hochberg's correction.
        resamples: bootstrap resamples of subjects for each interval.
        batch_tokens: tokens per forward pass.
        dictionaries: folders of dictionaries by name, for hypotheses about features.

    Returns:
        Per hypothesis one row for each of ``effect``, ``control_effect`` (the effect on control prompts, as a fraction of the
        same logit difference), ``sensitivity`` (fraction of prompts with at least the smallest effect of interest) and
        ``specificity`` (fraction of control prompts with less). ``p`` comes from a sign-flip test over subjects,
        one-sided in the hypothesised direction. ``verdict`` is *supported* if p_corrected < .05 and the effect is at
        least the smallest of interest, *refuted* if the whole interval lies below it, else *inconclusive*.

    Raises:
        CircuitError: a hypothesis names a component that the model or dictionary does not have, a relation without
            circuit, or a probe kind with too few prompts.
    """
    rows = []
    relations = list(dict.fromkeys(relation for relation, _ in prompts))
    for kind, group in (("confirmatory", confirmatory), ("exploratory", exploratory)):
        for name, hypothesis in group.items():
            named_relations = [hypothesis.relation, *({hypothesis.control} - {"same_answer"})]
            if unknown := [relation for relation in named_relations if relation not in relations]:
                raise CircuitError(
                    f"hypothesis `{name}` is about relation `{unknown[0]}`, which has no circuit; there are "
                    f"{', '.join(relations)}"
                )
            if (named_relations[0], hypothesis.probe_kind) not in prompts:
                raise CircuitError(f"hypothesis `{name}` needs {hypothesis.probe_kind} prompts, but there are too few")
            hypothesis_prompts = prompts[named_relations[0], hypothesis.probe_kind]
            if len(named_relations) > 1:
                control_prompts = prompts.get((named_relations[1], hypothesis.probe_kind))
                hypothesis_prompts = HypothesisPrompts(
                    hypothesis_prompts.test, control_prompts.test if control_prompts else []
                )
            if hypothesis.feature:
                ablate = partial(_ablate_feature, edges, load_feature(edges, hypothesis, name, dictionaries or {}))
            else:
                mask = ablation_mask(edges.graph, hypothesis.component, name)
                ablate = partial(_ablate_component, edges, mask, batch_tokens)
            rows.append(_evaluate_hypothesis(edges, hypothesis_prompts, ablate, hypothesis, resamples))
            rows[-1] = rows[-1].assign(hypothesis=name, kind=kind, **hypothesis.model_dump(exclude={"model"}))
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(rows, ignore_index=True)
    for kind, method in (("confirmatory", "holm"), ("exploratory", "fdr_bh")):
        p_values = table[table["kind"] == kind].drop_duplicates("hypothesis").set_index("hypothesis")["p"]
        if len(p_values):
            corrected = pd.Series(multipletests(p_values, method=method)[1], index=p_values.index)
            is_kind = table["kind"] == kind
            table.loc[is_kind, "p_corrected"] = table.loc[is_kind, "hypothesis"].map(corrected)
    effects = table[table["metric"] == "effect"].set_index("hypothesis")
    verdicts = {name: verdict(row) for name, row in effects.iterrows()}
    return table.assign(verdict=table["hypothesis"].map(verdicts))[COLUMNS]


COLUMNS = [
    "hypothesis", "metric", "n", "estimate", "ci_low", "ci_high", "interval_over", "p", "p_corrected", "verdict", "kind",
    "component", "relation", "probe_kind", "control", "direction", "smallest_effect", "claim",
]  # fmt: skip


def verdict(row: Any) -> str:
    """Verdict on a hypothesis, from the effect in its direction, the interval and the corrected p."""
    sign = 1 if row["direction"] == "lowers" else -1
    estimate, upper = sign * row["estimate"], max(sign * row["ci_low"], sign * row["ci_high"])
    if row["p_corrected"] < ALPHA and estimate >= row["smallest_effect"]:
        return "supported"
    return "refuted" if upper < row["smallest_effect"] else "inconclusive"


def ablation_mask(graph: ComputationGraph, component: str, name: str) -> Tensor:
    """All edges except those out of a component: a head ``a1.h3``, all heads of a layer ``a1``, or an MLP ``m1``.

    Raises:
        CircuitError: the model has no such component; the message contains ``name``, the name of the hypothesis.
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
    """A feature of a dictionary, and the site of the dictionary in the model."""

    dictionary: Dictionary
    site: DictionarySite
    feature: int


def load_feature(
    edges: CircuitModel, hypothesis: Hypothesis, name: str, dictionaries: Mapping[str, str | Path]
) -> DictionaryFeature:
    """Load the dictionary of the feature that a hypothesis names.

    Raises:
        CircuitError: the dictionary, layer or feature does not exist, or its width differs from the model's.
    """
    if hypothesis.feature is None:
        raise CircuitError(f"hypothesis `{name}` names no feature")
    sae, layer, index = hypothesis.feature
    if sae not in dictionaries:
        raise CircuitError(
            f"hypothesis `{name}` names dictionary `{sae}`; there are {', '.join(dictionaries) or 'none'}"
        )
    if not (Path(dictionaries[sae]) / layer).is_dir():
        last = edges.parts.n_layers - 1
        raise CircuitError(f"hypothesis `{name}` names {layer} of `{sae}`, which has layer-0 to layer-{last}")
    dictionary = load_dictionary(Path(dictionaries[sae]) / layer, str(edges.model.device))
    if index >= dictionary.d_sae:
        raise CircuitError(
            f"hypothesis `{name}` names feature {index} of {sae}/{layer}, which has features 0 to {dictionary.d_sae - 1}"
        )
    if dictionary.d_in != edges.parts.d_model:
        raise CircuitError(f"{sae}/{layer} reads width {dictionary.d_in}; the model has {edges.parts.d_model}")
    reads, writes = (edges.model.get_submodule(dictionary.metadata[key]) for key in ("hook_name", "hook_name_out"))
    return DictionaryFeature(dictionary, DictionarySite(reads, dictionary.metadata["hook_reads_input"], writes), index)


def _ablate_component(
    edges: CircuitModel, mask: Tensor, batch_tokens: int, batches: Sequence[PromptPairs]
) -> np.ndarray:
    return run_circuits(edges, batches, [mask], batch_tokens=batch_tokens).differences[0]


def _ablate_feature(edges: CircuitModel, feature: DictionaryFeature, batches: Sequence[PromptPairs]) -> np.ndarray:
    """Logit differences of clean runs in which a feature has its activation of the corrupted run, (pair,)."""
    dictionary, site, index = feature
    differences = []
    for batch in batches:
        activations: list[Tensor] = []

        def record(hidden: Tensor, activations: list[Tensor] = activations) -> None:
            activations.append(dictionary.encode(hidden)[..., index])

        def ablate(hidden: Tensor, activations: list[Tensor] = activations) -> Tensor:
            return hidden + (activations[0] - activations[1])[..., None] * dictionary.W_dec[index]

        with torch.no_grad(), patch(site.input_module, record, inputs=site.reads_input):
            edges.model.base_model(inputs_embeds=batch.corrupted, use_cache=False)
            with patch(site.output_module, ablate):
                logits = edges.model(inputs_embeds=batch.clean, use_cache=False, logits_to_keep=1).logits[:, -1]
        differences.append(logit_difference(logits, batch.answers).double().cpu())
    return torch.cat(differences).numpy()


def _evaluate_hypothesis(
    edges: CircuitModel,
    prompts: HypothesisPrompts,
    ablate: Callable[[Sequence[PromptPairs]], np.ndarray],
    hypothesis: Hypothesis,
    resamples: int,
) -> pd.DataFrame:
    sign = 1 if hypothesis.direction == "lowers" else -1
    scale, tables, p = 1.0, [], 1.0
    for metrics, batches in (
        (("effect", "sensitivity"), prompts.test),
        (("control_effect", "specificity"), prompts.control),
    ):
        if not batches:
            continue
        runs = run_circuits(edges, batches, [])
        if metrics[0] == "effect":
            scale = (runs.full - runs.empty).mean()
        effects = (runs.full - ablate(batches)) / scale
        is_large = sign * effects >= hypothesis.smallest_effect
        values = np.stack([effects, is_large if metrics[0] == "effect" else ~is_large], 1)
        tables.append(
            stats.summary_rows({}, list(metrics), stats.cluster_bootstrap(values, runs.subjects, resamples=resamples))
        )
        if metrics[0] == "effect":
            p = sign_flip_p(sign * pd.Series(effects).groupby(runs.subjects).mean().to_numpy())
    return pd.concat(tables).assign(p=p)


def sign_flip_p(values: np.ndarray, *, seed: int = 0) -> float:
    """One-sided p of a mean above 0: fraction of sign flips with a mean as large (exact for up to 12 values).

    Under the null hypothesis, the sign of each value is random (Fisher 1935, chapter 3).
    """
    n, observed = len(values), values.mean()
    if n <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(((signs @ values) / n >= observed - 1e-12).mean())
    signs = np.random.default_rng(seed).choice([-1, 1], size=(_DRAWS, n))
    return float((1 + ((signs @ values) / n >= observed - 1e-12).sum()) / (1 + _DRAWS))
