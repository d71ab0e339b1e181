"""Find circuits of relations on some subjects and validate them on others."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from factlife import stats
from factlife.circuits import attribution, hypotheses, validation
from factlife.circuits.attribution import CircuitModel, EdgeScores, PromptPairs
from factlife.circuits.edges import CircuitError, EdgeModel
from factlife.circuits.nodes import NodeModel
from factlife.circuits.roles import classify_heads
from factlife.circuits.selection import (
    EXTRA_FRACTIONS,
    MIB_FRACTIONS,
    circuit_components,
    compare_circuits,
    edge_count,
    edge_entropy,
    export_circuit,
    jaccard,
    read_circuit,
    select_circuit,
)
from factlife.config.circuits import Circuits, Hypothesis
from factlife.models import load_model
from factlife.tracing.patching import embed_tokens, stack_ids
from factlife.tracing.prompts import PromptPair, make_prompt_pairs
from factlife.world import World

KEYS = ["model", "seed", "relation", "method", "fraction"]
METHODS: dict[str, Callable[..., EdgeScores]] = {
    "EAP": attribution.eap,
    "EAP-IG-inputs": attribution.eap_ig,
    "exact": attribution.exact_patching,
    "denoising": attribution.denoising_patching,
}


class CircuitResults(NamedTuple):
    """Circuits and what was measured of them.

    Attributes:
        circuits: by relation and method, in the format of MIB.
        table: rows of ``circuits.csv`` but for ``model`` and ``seed``.
        hypotheses: rows of ``hypotheses.csv`` but for the same.
        heads: rows of ``heads.csv`` but for the same; none where heads' effects do not add up.
    """

    circuits: dict[tuple[str, str], dict[str, Any]]
    table: pd.DataFrame
    hypotheses: pd.DataFrame
    heads: pd.DataFrame


def discover_circuits(
    model: Any,
    tokenizer: Any,
    world: World,
    checkpoints: Sequence[tuple[int, Path]],
    settings: Circuits,
    stated: Mapping[str, Hypothesis] | None = None,
    dictionaries: Mapping[str, str | Path] | None = None,
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> CircuitResults:
    """Find the circuits of relations, validate them, and follow them over training; test hypotheses and class heads.

    ``stated`` are the hypotheses about this model, ``dictionaries`` the folders of the autoencoders that they name, ``known``
    circuits in the format of MIB, by relation, against which those that are found are held.

    Raises:
        CircuitError: a relation's answers have several tokens, it has too few prompts, or a known circuit is of another
            model.
    """
    edges = (NodeModel if settings.level == "node" else EdgeModel)(model)
    halves = {relation: split_pairs(model, tokenizer, world, relation, settings) for relation in settings.relations}
    held = {relation: batch_pairs(model, pairs[1]) for relation, pairs in halves.items()}
    # Held-out prompts by relation and kind.
    prompts = {(relation, "forward"): pairs[1] for relation, pairs in halves.items()}
    for relation, kind in itertools.product(halves, ("paraphrase", "question")):
        ids = {one.fact_id for one in halves[relation][1]}
        prompts[relation, kind] = select_answered_pairs(model, tokenizer, world, relation, kind, settings, ids)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    rows: list[pd.DataFrame] = []
    chosen, strengths = {}, defaultdict(dict)
    for relation, (discovery, _) in halves.items():
        for method in settings.methods:
            used = batch_pairs(model, discovery)
            scored = _method(method, [count for count in attribution.STEPS if count <= settings.ig_steps])(edges, used)
            again = _method(method, [scored.steps])
            budget = edge_count(edges.graph, settings.fraction)
            circuit = chosen[relation, method] = select_circuit(edges.graph, scored.scores.mean(0), budget)
            logging.info("%s by %s: %d edges, gap %.3f", relation, method, circuit.sum(), scored.gap_90)
            found[relation, method] = export_circuit(
                edges.graph,
                scored.scores.mean(0),
                circuit,
                d_model=edges.parts.d_model,
                parallel=edges.parts.parallel,
            ) | {
                "factlife": {
                    "relation": relation,
                    "method": method,
                    "steps_used": scored.steps,
                    **settings.model_dump(),
                }
            }
            keys = {"relation": relation, "method": method}
            controls = {
                control: select_circuit(edges.graph, scores, budget)
                for control, scores in _controls(edges, used, again, settings)
            }
            if known and relation in known:
                controls["known"] = read_circuit(edges.graph, known[relation])
                rows += [one.assign(**keys) for one in _agreement(edges, circuit, controls["known"])]
            rows += [
                one.assign(**keys)
                for one in _validate(edges, scored, circuit, controls, used, held[relation], settings)
            ]
            strengths[relation][method] = scored.scores.mean(0)
            if method == settings.methods[0] and len(checkpoints) > 1:
                followed = _training(type(edges), again, checkpoints, discovery[:_FOLLOWED], budget)
                rows.append(followed.assign(**keys))
            for kind in ("paraphrase", "question"):
                if len(pairs := prompts[relation, kind]) >= MIN_PAIRS:
                    measured = _run(edges, batch_pairs(model, pairs), [circuit], settings)
                    rows.append(_faithfulness(measured, 0, "faithfulness", settings).assign(evaluated_on=kind, **keys))
    rows += [*_between(edges, chosen, held, settings), *_methods(edges, strengths)]
    table = pd.concat(rows, ignore_index=True)
    table = table.assign(
        fraction=table["fraction"].fillna(settings.fraction),
        evaluated_on=table["evaluated_on"].fillna("validation"),
        control=table["control"].fillna(""),
    )
    tested = hypotheses.evaluate_hypotheses(
        edges,
        {
            key: hypotheses.HypothesisPrompts(batch_pairs(model, pairs), same_answer_batches(model, pairs))
            for key, pairs in prompts.items()
            if len(pairs) >= MIN_PAIRS
        },
        stated or {},
        hypotheses.exploratory_hypotheses(
            edges.graph,
            {relation: found[settings.methods[0]] for relation, found in strengths.items()},
            settings.exploratory_hypotheses,
            settings.smallest_effect,
        ),
        resamples=settings.resamples,
        batch_tokens=settings.batch_tokens,
        dictionaries=dictionaries,
    )
    asked = [] if edges.parts.post_norm else [pair for pairs in halves.values() for pair in pairs[1]]
    heads = classify_heads(model, asked, resamples=settings.resamples)
    return CircuitResults(found, table.reindex(columns=[*KEYS[2:], *_COLUMNS]), tested, heads)


# Fewest pairs that have a circuit.
MIN_PAIRS = 2
# HypothesisPrompts on which a circuit is followed over training.
_FOLLOWED = 24

_COLUMNS = [
    "metric",
    "n",
    "estimate",
    "ci_low",
    "ci_high",
    "interval_over",
    "n_edges",
    "evaluated_on",
    "control",
    "step",
]


def split_pairs(
    model: Any, tokenizer: Any, world: World, relation: str, settings: Circuits
) -> tuple[list[PromptPair], list[PromptPair]]:
    """Pairs for discovery and for validation, with no subject and no other subject in both.

    Raises:
        CircuitError: the world has no such relation, its answers have several tokens, or it has too few prompts.
    """
    facts = world.facts[(world.facts["relation"] == relation) & world.facts["seen"]]
    if facts.empty:
        raise CircuitError(
            f"the world has no relation `{relation}`; it has {', '.join(world.facts['relation'].unique())}"
        )
    subjects = np.random.default_rng(settings.seed).permutation(sorted(set(facts["entity_id"])))
    half = len(subjects) // 2
    found = []
    for some, limit in ((subjects[:half], settings.discovery_prompts), (subjects[half:], settings.validation_prompts)):
        ids = {f"{subject}.{relation}" for subject in some}
        pairs = select_answered_pairs(model, tokenizer, world, relation, "forward", settings, ids)
        if len(pairs) < MIN_PAIRS:
            raise CircuitError(
                f"relation `{relation}` has {len(pairs)} prompts with another subject to compare among {len(some)} "
                "subjects: too few for a circuit; choose another relation or a larger world"
            )
        found.append(pairs[:limit])
    return found[0], found[1]


def select_answered_pairs(
    model: Any, tokenizer: Any, world: World, relation: str, kind: str, settings: Circuits, facts: Iterable[str]
) -> list[PromptPair]:
    """Pairs of probes of one kind about some facts of a relation, whose answer the model gives.

    Where a model gives fewer than ``ENOUGH`` answers, all are taken, so that one that knows nothing has its circuits too.

    Raises:
        CircuitError: an answer has several tokens.
    """
    facts = set(facts)
    probes = world.probes[(world.probes["kind"] == kind) & world.probes["fact_id"].isin(facts)]
    pairs, left_out = make_prompt_pairs(
        tokenizer, world, probes, donors={fact.split(".")[0] for fact in facts}, seed=settings.seed
    )
    if left_out:
        logging.info("%d prompts of %s are left out: %s", len(left_out), relation, sorted(set(left_out.values()))[0])
    if not settings.first_token and (several := [pair for pair in pairs if pair.n_target_tokens > 1]):
        raise CircuitError(
            f"the answer to {several[0].probe_id} has {several[0].n_target_tokens} tokens; circuits explain one token: "
            f"leave relation `{relation}` out of circuits.relations, or set circuits.first_token: true"
        )
    order = np.random.default_rng(settings.seed).permutation(len(pairs))
    pairs = [pairs[place] for place in order]
    known = []
    for group in _by_length(pairs):
        with torch.inference_mode():
            said = (
                model(stack_ids([pair.ids for pair in group]).to(model.device), logits_to_keep=1)
                .logits[:, -1]
                .argmax(-1)
            )
        known += [pair for pair, token in zip(group, said.tolist(), strict=True) if token == pair.answer]
    if len(known) < MIN_PAIRS:
        logging.warning("the model answers %d of %d prompts of %s: all are used", len(known), len(pairs), relation)
        return pairs
    ids = {pair.probe_id for pair in known}
    return [pair for pair in pairs if pair.probe_id in ids]


def _method(name: str, steps: Sequence[int]) -> Callable[..., EdgeScores]:
    """A method; where it integrates, by as many points as the first of ``steps`` that is enough, or the last."""
    return partial(attribution.eap_ig, steps=steps) if name == "EAP-IG-inputs" else METHODS[name]


def batch_pairs(model: Any, pairs: Sequence[PromptPair]) -> list[PromptPairs]:
    """Pairs of equal length together."""
    return [
        PromptPairs(
            clean=embed_tokens(model, stack_ids([pair.ids for pair in group])).clone(),
            corrupted=embed_tokens(model, stack_ids([pair.donor_ids for pair in group])).clone(),
            answers=torch.tensor([[pair.answer, pair.donor_answer] for pair in group]).to(model.device),
            subjects=[pair.fact_id.split(".")[0] for pair in group],
        )
        for group in _by_length(pairs)
    ]


def same_answer_batches(model: Any, pairs: Sequence[PromptPair]) -> list[PromptPairs]:
    """As ``batches``, with subjects in the corrupted runs who have the same answer; pairs without one are left out."""
    alike = [replace(pair, donor_ids=pair.same_answer_ids) for pair in pairs if pair.same_answer_ids]
    return batch_pairs(model, alike)


def _by_length(pairs: Sequence[PromptPair]) -> list[list[PromptPair]]:
    found = defaultdict(list)
    for pair in pairs:
        found[len(pair.ids)].append(pair)
    return list(found.values())


def _run(
    edges: CircuitModel, held: Sequence[PromptPairs], circuits: Sequence[torch.Tensor], settings: Circuits
) -> validation.CircuitRuns:
    return validation.run_circuits(edges, held, circuits, batch_tokens=settings.batch_tokens)


def _validate(
    edges: CircuitModel,
    scored: EdgeScores,
    circuit: torch.Tensor,
    controls: dict[str, torch.Tensor],
    used: Sequence[PromptPairs],
    held: Sequence[PromptPairs],
    settings: Circuits,
) -> Iterable[pd.DataFrame]:
    graph, scores, budget = edges.graph, scored.scores.mean(0), edge_count(edges.graph, settings.fraction)
    subsets = validation.sample_subsets(circuit, settings.completeness_subsets, settings.seed)
    curve_of = [*MIB_FRACTIONS, *EXTRA_FRACTIONS]
    groups = {
        "circuit": [circuit],
        "complement": [graph.edges & ~circuit],
        "random": validation.sample_random_circuits(graph, circuit, settings.random_circuits, settings.seed),
        "random_connected": validation.sample_connected_circuits(
            graph, budget, settings.random_circuits // 2, settings.seed
        ),
        "control": list(controls.values()),
        "without": validation.remove_single_edges(circuit, settings.minimality_edges, settings.seed),
        "inflated": validation.add_single_edges(graph, circuit, settings.minimality_edges, settings.seed),
        "circuit_less": [circuit & ~one for one in subsets],
        "model_less": [graph.edges & ~one for one in subsets],
        "curve": [select_circuit(graph, scores, edge_count(graph, share)) for share in curve_of],
    }
    circuits = [one for group in groups.values() for one in group]
    ends = dict(zip(groups, np.cumsum([len(group) for group in groups.values()]), strict=True))
    places = {name: range(ends[name] - len(group), ends[name]) for name, group in groups.items()}
    measured = _run(edges, held, circuits, settings)
    f, resampled = measured.faithfulness, measured.resampled(settings.resamples)
    n = len(measured.full)
    for control, number in zip(["", *controls], [0, *places["control"]], strict=True):
        for one in _against_random(
            measured, number, f[places["random"]], f[places["random_connected"]], settings, control
        ):
            yield one.assign(control=control)
    yield _faithfulness(measured, 1, "complement_faithfulness", settings)
    minimal = validation.minimality(f[0], f[places["without"]], f[places["inflated"]])
    yield _point("minimality", minimal, len(groups["without"]))
    pairs = places["circuit_less"], places["model_less"]
    apart, aparts = (np.abs(each[..., pairs[0]] - each[..., pairs[1]]).mean(-1) for each in (f, resampled))
    yield stats.summary_rows({}, ["incompleteness"], validation.percentile_interval(n, apart, aparts))
    curve = places["curve"][: len(MIB_FRACTIONS)]
    areas = validation.cpr_and_cmd(MIB_FRACTIONS, f[curve]), validation.cpr_and_cmd(MIB_FRACTIONS, resampled[:, curve])
    for place, metric in enumerate(("cpr", "cmd")):
        yield stats.summary_rows({}, [metric], validation.percentile_interval(n, areas[0][place], areas[1][place]))
    for share, one, number in zip(curve_of, groups["curve"], places["curve"], strict=True):
        if share != settings.fraction:
            row = _faithfulness(measured, number, "faithfulness", settings)
            yield row.assign(fraction=share, n_edges=int(one.sum()))
    subjects = [subject for batch in used for subject in batch.subjects]
    overlaps = validation.bootstrap_stability(
        graph, scored.scores, subjects, int(circuit.sum()), settings.stability_resamples
    )
    yield stats.summary_rows(
        {}, ["stability"], validation.percentile_interval(len(set(subjects)), overlaps.mean(), overlaps)
    )
    if scored.steps:
        yield _point("integration_gap", scored.gap_90, len(scored.gap))
    yield _point("edge_entropy", edge_entropy(scores))
    yield _point("n_edges", int(circuit.sum()))


def _agreement(edges: CircuitModel, circuit: torch.Tensor, known: torch.Tensor) -> Iterable[pd.DataFrame]:
    """Precision and recall of a circuit's edges and nodes against a known one's, with what chance would reach."""
    theirs = circuit_components(edges.graph, known)
    for part, (found, every) in circuit_components(edges.graph, circuit).items():
        for metric, value in compare_circuits(found, theirs[part][0], every)._asdict().items():
            yield _point(f"{part}_{metric}", value, int(theirs[part][0].sum())).assign(control="known")


def _against_random(
    measured: validation.CircuitRuns,
    circuit: int,
    random: np.ndarray,
    connected: np.ndarray,
    settings: Circuits,
    control: str,
) -> Iterable[pd.DataFrame]:
    """Faithfulness and hits of a circuit, beside the faithfulness of random circuits of two kinds."""
    yield _faithfulness(measured, circuit, "faithfulness", settings)
    hits = measured.hits[circuit][:, None]
    yield stats.summary_rows(
        {}, ["hit_at_1"], stats.cluster_bootstrap(hits, measured.subjects, resamples=settings.resamples)
    )
    f = measured.faithfulness[circuit]
    for name, drawn in (("random", random), ("random_connected", connected)):
        yield _point(f"{name}_percentile", float((drawn < f).mean()), len(drawn))
        if not control:
            yield _point(f"{name}_mean", drawn.mean(), len(drawn))
            yield _point(f"{name}_best", drawn.max(), len(drawn))


def _training(
    kind: type[CircuitModel],
    method: Callable[..., EdgeScores],
    checkpoints: Sequence[tuple[int, Path]],
    pairs: Sequence[PromptPair],
    budget: int,
) -> pd.DataFrame:
    """Entropy of the edges' scores at each checkpoint, and overlap of its circuit with the last one's, on a few pairs."""
    scores, chosen = {}, {}
    for step, folder in checkpoints:
        edges = kind(load_model(folder)[0])
        scores[step] = method(edges, batch_pairs(edges.model, pairs)).scores.mean(0)
        chosen[step] = select_circuit(edges.graph, scores[step], budget)
    last = chosen[checkpoints[-1][0]]
    rows = []
    for step, _ in checkpoints:
        rows.append(_point("edge_entropy", edge_entropy(scores[step]), len(pairs)).assign(step=step))
        rows.append(_point("jaccard_with_final", jaccard(chosen[step], last), len(pairs)).assign(step=step))
    return pd.concat(rows)


def _controls(
    edges: CircuitModel, used: Sequence[PromptPairs], method: Callable[..., EdgeScores], settings: Circuits
) -> Iterable[tuple[str, torch.Tensor]]:
    """Scores that know nothing: of a model with random weights, and of answers that belong to other prompts."""
    model = edges.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        blank = type(model)(model.config).eval().to(model.device)
    tables = blank.get_input_embeddings().weight.std() / model.get_input_embeddings().weight.std()
    ours = [PromptPairs(one.clean * tables, one.corrupted * tables, one.answers, one.subjects) for one in used]
    yield "random_weights", method(type(edges)(blank), ours).scores.mean(0).detach()
    answers = torch.cat([one.answers for one in used]).roll(1, 0).split([len(one.answers) for one in used])
    shuffled = [
        PromptPairs(one.clean, one.corrupted, other, one.subjects) for one, other in zip(used, answers, strict=True)
    ]
    yield "shuffled_answers", method(edges, shuffled).scores.mean(0)


def _between(
    edges: CircuitModel,
    chosen: dict[tuple[str, str], torch.Tensor],
    held: dict[str, list[PromptPairs]],
    settings: Circuits,
) -> Iterable[pd.DataFrame]:
    """Overlap of relations' circuits, and how well each does on the others' prompts."""
    for (relation, method), circuit in chosen.items():
        keys = {"relation": relation, "method": method}
        for other in held:
            if other != relation:
                measured = _run(edges, held[other], [circuit], settings)
                yield _faithfulness(measured, 0, "faithfulness", settings).assign(evaluated_on=other, **keys)
                yield _point("jaccard", jaccard(circuit, chosen[other, method])).assign(evaluated_on=other, **keys)


def _methods(edges: CircuitModel, strengths: Mapping[str, Mapping[str, torch.Tensor]]) -> Iterable[pd.DataFrame]:
    """Pearson correlation of the scores that methods give the edges of one relation."""
    there = edges.graph.edges
    for relation, by_method in strengths.items():
        for one, other in itertools.permutations(by_method, 2):
            both = torch.stack([by_method[one][there], by_method[other][there]])
            row = _point("pearson", torch.corrcoef(both)[0, 1].item(), int(there.sum()))
            yield row.assign(evaluated_on=other, relation=relation, method=one)


def _faithfulness(measured: validation.CircuitRuns, circuit: int, metric: str, settings: Circuits) -> pd.DataFrame:
    resampled = measured.resampled(settings.resamples)[:, circuit]
    return stats.summary_rows(
        {}, [metric], validation.percentile_interval(len(measured.full), measured.faithfulness[circuit], resampled)
    )


def _point(metric: str, value: float, n: int = 1) -> pd.DataFrame:
    nothing = np.array([np.nan])
    return stats.summary_rows(
        {}, [metric], stats.Interval(np.array([n]), np.array([value]), nothing, nothing), interval_over=""
    )
