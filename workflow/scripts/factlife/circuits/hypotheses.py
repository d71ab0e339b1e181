"""Hypotheses: what a part of a model is said to do, tested by knocking it out on held-out subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from factlife import stats
from factlife.circuits.attribution import Batch, Model
from factlife.circuits.edges import CircuitError, Graph
from factlife.circuits.validation import run
from factlife.config.circuits import Hypothesis

ALPHA = 0.05
_EXACT = 12
_DRAWS = 10000


@dataclass(frozen=True)
class Prompts:
    """Held-out prompts of a relation.

    Attributes:
        test: paired with subjects who have another answer.
        control: paired with subjects who have the same answer.
    """

    test: Sequence[Batch]
    control: Sequence[Batch]


def automatic(graph: Graph, scores: Mapping[str, Tensor], count: int, smallest_effect: float) -> dict[str, Hypothesis]:
    """For each relation, the parts whose edges have the largest scores, and as many of those with the smallest.

    The latter are the control: they should be refuted.

    Args:
        graph: of the model.
        scores: of edges by relation, (writer, reader).
        count: parts of either kind for each relation.
        smallest_effect: of interest.
    """
    found = {}
    for relation, score in scores.items():
        sizes = (score * graph.edges).abs().sum(1)[1:]
        order = (sizes.argsort(descending=True) + 1).tolist()
        for kind, rows in (("strongest", order[:count]), ("weakest", order[max(count, len(order) - count) :])):
            for row in rows:
                part = graph.writers[row]
                found[f"{relation}-{kind}-{part}"] = Hypothesis(
                    claim=f"One of the {kind} parts for {relation}", component=part, relation=relation,
                    smallest_effect=smallest_effect,
                )  # fmt: skip
    return found


def test(
    edges: Model,
    prompts: Mapping[str, Prompts],
    stated: Mapping[str, Hypothesis],
    generated: Mapping[str, Hypothesis],
    *,
    resamples: int,
    batch_tokens: int,
) -> pd.DataFrame:
    """Test hypotheses: knock the part out, so that all its edges carry what the corrupted run wrote.

    The effect is the share of the logit difference that is lost, (m(M) − m(M without the part)) / (m(M) − m(∅)).

    Args:
        edges: the model.
        prompts: held-out prompts of each relation.
        stated: hypotheses that were written before looking; their p are corrected by Holm's method.
        generated: those that ``automatic`` made; theirs by Benjamini and Hochberg's.
        resamples: bootstrap resamples of subjects behind intervals.
        batch_tokens: tokens in a forward pass.

    Returns:
        Per hypothesis rows of ``effect``, ``control_effect`` (the same with a subject who has the same answer),
        ``sensitivity`` (prompts with at least the smallest effect of interest) and ``specificity`` (control prompts
        with less). ``p`` is of a sign-flip test over subjects, one-sided in the stated direction. ``verdict``:
        *supported* if p_corrected < .05 and the effect is at least the smallest of interest, *refuted* if the whole
        interval is below that, else *inconclusive*.

    Raises:
        CircuitError: a hypothesis names a part that the model does not have, or a relation that was not asked.
    """
    rows = []
    for kind, group in (("stated", stated), ("automatic", generated)):
        for name, hypothesis in group.items():
            if hypothesis.relation not in prompts:
                raise CircuitError(
                    f"hypothesis `{name}` is about relation `{hypothesis.relation}`, whose circuit is not looked for; "
                    f"there are {', '.join(prompts)}"
                )
            mask = knocked_out(edges.graph, hypothesis.component, name)
            rows.append(_tested(edges, prompts[hypothesis.relation], mask, hypothesis, resamples, batch_tokens))
            rows[-1] = rows[-1].assign(hypothesis=name, kind=kind, **hypothesis.model_dump())
    if not rows:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(rows, ignore_index=True)
    for kind, method in (("stated", "holm"), ("automatic", "fdr_bh")):
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
    "component", "relation", "direction", "smallest_effect", "claim",
]  # fmt: skip


def verdict(row: Any) -> str:
    """Of a hypothesis, from its effect in the stated direction, interval and corrected p."""
    sign = 1 if row["direction"] == "lowers" else -1
    estimate, upper = sign * row["estimate"], max(sign * row["ci_low"], sign * row["ci_high"])
    if row["p_corrected"] < ALPHA and estimate >= row["smallest_effect"]:
        return "supported"
    return "refuted" if upper < row["smallest_effect"] else "inconclusive"


def knocked_out(graph: Graph, component: str, name: str) -> Tensor:
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


def _tested(
    edges: Model, prompts: Prompts, mask: Tensor, hypothesis: Hypothesis, resamples: int, batch_tokens: int
) -> pd.DataFrame:
    sign = 1 if hypothesis.direction == "lowers" else -1
    scale, parts, p = 1.0, [], 1.0
    for metrics, batches in (
        (("effect", "sensitivity"), prompts.test),
        (("control_effect", "specificity"), prompts.control),
    ):
        if not batches:
            continue
        measured = run(edges, batches, [mask], batch_tokens=batch_tokens)
        if metrics[0] == "effect":
            scale = (measured.full - measured.empty).mean()
        lost = (measured.full - measured.differences[0]) / scale
        large = sign * lost >= hypothesis.smallest_effect
        values = np.stack([lost, large if metrics[0] == "effect" else ~large], 1)
        parts.append(
            stats.tidy({}, list(metrics), stats.cluster_bootstrap(values, measured.subjects, resamples=resamples))
        )
        if metrics[0] == "effect":
            p = sign_flip(sign * pd.Series(lost).groupby(measured.subjects).mean().to_numpy())
    return pd.concat(parts).assign(p=p)


def sign_flip(values: np.ndarray, *, seed: int = 0) -> float:
    """One-sided p of a mean above 0: the share of sign flips whose mean is as large (exact for 12 values or fewer).

    Under the null hypothesis every value is as likely with the other sign (Fisher 1935, chapter 3).
    """
    n, observed = len(values), values.mean()
    if n <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(((signs @ values) / n >= observed - 1e-12).mean())
    signs = np.random.default_rng(seed).choice([-1, 1], size=(_DRAWS, n))
    return float((1 + ((signs @ values) / n >= observed - 1e-12).sum()) / (1 + _DRAWS))
