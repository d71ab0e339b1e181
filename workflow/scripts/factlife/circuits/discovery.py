"""Discover circuits of relations on some subjects and validate them on others."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from factlife.config.circuits import CircuitDiscovery, Hypothesis
from factlife.models import load_model
from factlife.tracing.patching import embed_tokens, stack_ids
from factlife.tracing.prompts import PromptPair, make_prompt_pairs
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEYS = ["model", "seed", "relation", "method", "fraction"]
METHODS: dict[str, Callable[..., EdgeScores]] = {
    "EAP": attribution.eap,
    "EAP-IG-inputs": attribution.eap_ig,
    "exact": attribution.exact_patching,
    "denoising": attribution.denoising_patching,
}


class CircuitResults(NamedTuple):
    """Circuits and their evaluation.

    Attributes:
        circuits: circuits in MIB's format, by relation and method.
        table: rows of ``circuits.csv`` without ``model`` and ``seed``.
        hypotheses: rows of ``hypotheses.csv`` without these columns.
        heads: rows of ``heads.csv`` without these columns; empty where the effects of heads do not add up.
    """

    circuits: dict[tuple[str, str], dict[str, Any]]
    table: pd.DataFrame
    hypotheses: pd.DataFrame
    heads: pd.DataFrame


def discover_circuits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    checkpoints: Sequence[tuple[int, Path]],
    settings: CircuitDiscovery,
    confirmatory: Mapping[str, Hypothesis] | None = None,
    dictionaries: Mapping[str, str | Path] | None = None,
    known_circuits: Mapping[str, Mapping[str, Any]] | None = None,
) -> CircuitResults:
    """Discover and validate the circuits of relations, track them over training, test hypotheses and classify heads.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        world: source of facts and probes.
        checkpoints: step and folder of each training checkpoint.
        settings: relations, methods and sizes.
        confirmatory: hypotheses about this model, by name.
        dictionaries: folders of the dictionaries that the hypotheses name.
        known_circuits: circuits in MIB's format, by relation, to compare with the discovered ones.

    Raises:
        CircuitError: the answers of a relation have several tokens, a relation has too few prompts, or a known circuit
            belongs to another model.
    """
    edges = (NodeModel if settings.level == "node" else EdgeModel)(model)
    halves = {
        relation: split_pairs(model, tokenizer, world, relation, settings) for relation in settings.relations or ()
    }
    validation_batches = {relation: batch_pairs(model, pairs[1]) for relation, pairs in halves.items()}
    # Validation prompts by relation and kind.
    prompts = {(relation, "forward"): pairs[1] for relation, pairs in halves.items()}
    for relation, kind in itertools.product(halves, ("paraphrase", "question")):
        ids = {pair.fact_id for pair in halves[relation][1]}
        prompts[relation, kind] = select_answered_pairs(model, tokenizer, world, relation, kind, settings, ids)
    exported: dict[tuple[str, str], dict[str, Any]] = {}
    rows: list[pd.DataFrame] = []
    circuits: dict[tuple[str, str], torch.Tensor] = {}
    mean_scores: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for relation, (discovery, _) in halves.items():
        for method in settings.methods:
            discovery_batches = batch_pairs(model, discovery)
            steps = [n_steps for n_steps in attribution.STEPS if n_steps <= settings.ig_steps]
            edge_scores = _method(method, steps)(edges, discovery_batches)
            score_with_same_steps = _method(method, [edge_scores.steps])
            n_edges = edge_count(edges.graph, settings.fraction)
            circuit = circuits[relation, method] = select_circuit(edges.graph, edge_scores.scores.mean(0), n_edges)
            logging.info("%s by %s: %d edges, gap %.3f", relation, method, circuit.sum(), edge_scores.gap_90)
            exported[relation, method] = export_circuit(
                edges.graph,
                edge_scores.scores.mean(0),
                circuit,
                d_model=edges.parts.d_model,
                parallel=edges.parts.parallel,
            ) | {
                "factlife": {
                    "relation": relation,
                    "method": method,
                    "steps_used": edge_scores.steps,
                    **settings.model_dump(),
                }
            }
            keys = {"relation": relation, "method": method}
            controls = {
                control: select_circuit(edges.graph, scores, n_edges)
                for control, scores in _controls(edges, discovery_batches, score_with_same_steps, settings)
            }
            if known_circuits and relation in known_circuits:
                controls["known"] = read_circuit(edges.graph, known_circuits[relation])
                rows += [table.assign(**keys) for table in _compare_with_known(edges, circuit, controls["known"])]
            evaluation = _validate(
                edges, edge_scores, circuit, controls, discovery_batches, validation_batches[relation], settings
            )
            rows += [table.assign(**keys) for table in evaluation]
            mean_scores[relation][method] = edge_scores.scores.mean(0)
            if method == settings.methods[0] and len(checkpoints) > 1:
                training = _training(
                    type(edges), score_with_same_steps, checkpoints, discovery[:_TRAINING_PROMPTS], n_edges
                )
                rows.append(training.assign(**keys))
            for kind in ("paraphrase", "question"):
                if len(pairs := prompts[relation, kind]) >= MIN_PAIRS:
                    runs = _run(edges, batch_pairs(model, pairs), [circuit], settings)
                    rows.append(_faithfulness(runs, 0, "faithfulness", settings).assign(evaluated_on=kind, **keys))
    rows += [*_compare_relations(edges, circuits, validation_batches, settings), *_compare_methods(edges, mean_scores)]
    table = pd.concat(rows, ignore_index=True)
    table = table.assign(
        fraction=table["fraction"].fillna(settings.fraction),
        evaluated_on=table["evaluated_on"].fillna("validation"),
        control=table["control"].fillna(""),
    )
    hypothesis_table = hypotheses.evaluate_hypotheses(
        edges,
        {
            key: hypotheses.HypothesisPrompts(batch_pairs(model, pairs), same_answer_batches(model, pairs))
            for key, pairs in prompts.items()
            if len(pairs) >= MIN_PAIRS
        },
        confirmatory or {},
        hypotheses.exploratory_hypotheses(
            edges.graph,
            {relation: by_method[settings.methods[0]] for relation, by_method in mean_scores.items()},
            settings.exploratory_hypotheses,
            settings.smallest_effect,
        ),
        resamples=settings.resamples,
        batch_tokens=settings.batch_tokens,
        dictionaries=dictionaries,
    )
    validation_pairs = [] if edges.parts.post_norm else [pair for pairs in halves.values() for pair in pairs[1]]
    heads = classify_heads(model, validation_pairs, resamples=settings.resamples)
    return CircuitResults(exported, table.reindex(columns=[*KEYS[2:], *_COLUMNS]), hypothesis_table, heads)


# Minimum number of pairs for a circuit.
MIN_PAIRS = 2
# Number of prompts on which circuits of checkpoints are discovered.
_TRAINING_PROMPTS = 24

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
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, relation: str, settings: CircuitDiscovery
) -> tuple[list[PromptPair], list[PromptPair]]:
    """Pairs for discovery and for validation; no subject or replacement subject occurs in both.

    Raises:
        CircuitError: the world lacks the relation, its answers have several tokens, or it has too few prompts.
    """
    facts = world.facts[(world.facts["relation"] == relation) & world.facts["seen"]]
    if facts.empty:
        raise CircuitError(
            f"the world has no relation `{relation}`; it has {', '.join(world.facts['relation'].unique())}"
        )
    subjects = np.random.default_rng(settings.seed).permutation(sorted(set(facts["entity_id"])))
    half = len(subjects) // 2
    halves = []
    for half_subjects, limit in (
        (subjects[:half], settings.discovery_prompts),
        (subjects[half:], settings.validation_prompts),
    ):
        ids = {f"{subject}.{relation}" for subject in half_subjects}
        pairs = select_answered_pairs(model, tokenizer, world, relation, "forward", settings, ids)
        if len(pairs) < MIN_PAIRS:
            raise CircuitError(
                f"relation `{relation}` has {len(pairs)} prompts with a replacement subject among {len(half_subjects)} "
                "subjects: too few for a circuit; choose another relation or a larger world"
            )
        halves.append(pairs[:limit])
    return halves[0], halves[1]


def select_answered_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    relation: str,
    kind: str,
    settings: CircuitDiscovery,
    facts: Iterable[str],
) -> list[PromptPair]:
    """Pairs about some facts of a relation, from probes of one kind, that the model answers correctly.

    If the model answers fewer than ``MIN_PAIRS``, all pairs are used, so a model without knowledge has circuits too.

    Raises:
        CircuitError: an answer has several tokens.
    """
    facts = set(facts)
    probes = world.probes[(world.probes["kind"] == kind) & world.probes["fact_id"].isin(facts)]
    pairs, exclusion_reasons = make_prompt_pairs(
        tokenizer, world, probes, donors={fact.split(".")[0] for fact in facts}, seed=settings.seed
    )
    if exclusion_reasons:
        reason = min(exclusion_reasons.values())
        logging.info("%d prompts of %s are excluded: %s", len(exclusion_reasons), relation, reason)
    if not settings.first_token and (multi_token := [pair for pair in pairs if pair.n_target_tokens > 1]):
        raise CircuitError(
            f"the answer to {multi_token[0].probe_id} has {multi_token[0].n_target_tokens} tokens; circuits explain one token: "
            f"leave relation `{relation}` out of the model's circuits.relations, or set circuits.first_token: true there"
        )
    order = np.random.default_rng(settings.seed).permutation(len(pairs))
    pairs = [pairs[i] for i in order]
    answered = []
    for group in _by_length(pairs):
        with torch.inference_mode():
            predictions = (
                model(stack_ids([pair.ids for pair in group]).to(model.device), logits_to_keep=1)
                .logits[:, -1]
                .argmax(-1)
            )
        answered += [pair for pair, token in zip(group, predictions.tolist(), strict=True) if token == pair.answer]
    if len(answered) < MIN_PAIRS:
        logging.warning(
            "the model answers %d of %d prompts of %s, so all are used", len(answered), len(pairs), relation
        )
        return pairs
    ids = {pair.probe_id for pair in answered}
    return [pair for pair in pairs if pair.probe_id in ids]


def _method(name: str, steps: Sequence[int]) -> Callable[..., EdgeScores]:
    """A method; integration takes the first of ``steps`` whose gap is small enough, or the last."""
    return partial(attribution.eap_ig, steps=steps) if name == "EAP-IG-inputs" else METHODS[name]


def batch_pairs(model: PreTrainedModel, pairs: Sequence[PromptPair]) -> list[PromptPairs]:
    """Batches of pairs with equal length."""
    return [
        PromptPairs(
            clean=embed_tokens(model, stack_ids([pair.ids for pair in group])).clone(),
            corrupted=embed_tokens(model, stack_ids([pair.donor_ids for pair in group])).clone(),
            answers=torch.tensor([[pair.answer, pair.donor_answer] for pair in group]).to(model.device),
            subjects=[pair.fact_id.split(".")[0] for pair in group],
        )
        for group in _by_length(pairs)
    ]


def same_answer_batches(model: PreTrainedModel, pairs: Sequence[PromptPair]) -> list[PromptPairs]:
    """Batches whose corrupted runs are about a subject with the same answer; pairs without such a subject are excluded."""
    control_pairs = [replace(pair, donor_ids=pair.same_answer_ids) for pair in pairs if pair.same_answer_ids]
    return batch_pairs(model, control_pairs)


def _by_length(pairs: Sequence[PromptPair]) -> list[list[PromptPair]]:
    by_length = defaultdict(list)
    for pair in pairs:
        by_length[len(pair.ids)].append(pair)
    return list(by_length.values())


def _run(
    edges: CircuitModel,
    validation_batches: Sequence[PromptPairs],
    circuits: Sequence[torch.Tensor],
    settings: CircuitDiscovery,
) -> validation.CircuitRuns:
    return validation.run_circuits(edges, validation_batches, circuits, batch_tokens=settings.batch_tokens)


def _validate(
    edges: CircuitModel,
    edge_scores: EdgeScores,
    circuit: torch.Tensor,
    controls: dict[str, torch.Tensor],
    discovery_batches: Sequence[PromptPairs],
    validation_batches: Sequence[PromptPairs],
    settings: CircuitDiscovery,
) -> Iterable[pd.DataFrame]:
    graph, scores, n_edges = edges.graph, edge_scores.scores.mean(0), edge_count(edges.graph, settings.fraction)
    subsets = validation.sample_subsets(circuit, settings.completeness_subsets, settings.seed)
    curve_fractions = [*MIB_FRACTIONS, *EXTRA_FRACTIONS]
    groups = {
        "circuit": [circuit],
        "complement": [graph.edges & ~circuit],
        "random": validation.sample_random_circuits(graph, circuit, settings.random_circuits, settings.seed),
        "random_connected": validation.sample_connected_circuits(
            graph, n_edges, settings.random_circuits // 2, settings.seed
        ),
        "control": list(controls.values()),
        "ablated": validation.remove_single_edges(circuit, settings.minimality_edges, settings.seed),
        "inflated": validation.add_single_edges(graph, circuit, settings.minimality_edges, settings.seed),
        "circuit_without_subset": [circuit & ~subset for subset in subsets],
        "model_without_subset": [graph.edges & ~subset for subset in subsets],
        "curve": [select_circuit(graph, scores, edge_count(graph, fraction)) for fraction in curve_fractions],
    }
    circuits = [mask for group in groups.values() for mask in group]
    ends = dict(zip(groups, np.cumsum([len(group) for group in groups.values()]), strict=True))
    indices = {name: range(ends[name] - len(group), ends[name]) for name, group in groups.items()}
    runs = _run(edges, validation_batches, circuits, settings)
    f, resampled = runs.faithfulness, runs.resampled(settings.resamples)
    n = len(runs.full)
    for control, index in zip(["", *controls], [0, *indices["control"]], strict=True):
        for rows in _against_random(
            runs, index, f[indices["random"]], f[indices["random_connected"]], settings, control
        ):
            yield rows.assign(control=control)
    yield _faithfulness(runs, 1, "complement_faithfulness", settings)
    minimal = validation.minimality(f[0], f[indices["ablated"]], f[indices["inflated"]])
    yield _point("minimality", minimal, len(groups["ablated"]))
    pairs = indices["circuit_without_subset"], indices["model_without_subset"]
    incompleteness, resampled_incompleteness = (
        np.abs(values[..., pairs[0]] - values[..., pairs[1]]).mean(-1) for values in (f, resampled)
    )
    yield stats.summary_rows(
        {}, ["incompleteness"], validation.percentile_interval(n, incompleteness, resampled_incompleteness)
    )
    curve = indices["curve"][: len(MIB_FRACTIONS)]
    areas = validation.cpr_and_cmd(MIB_FRACTIONS, f[curve]), validation.cpr_and_cmd(MIB_FRACTIONS, resampled[:, curve])
    for i, metric in enumerate(("cpr", "cmd")):
        yield stats.summary_rows({}, [metric], validation.percentile_interval(n, areas[0][i], areas[1][i]))
    for fraction, mask, index in zip(curve_fractions, groups["curve"], indices["curve"], strict=True):
        if fraction != settings.fraction:
            row = _faithfulness(runs, index, "faithfulness", settings)
            yield row.assign(fraction=fraction, n_edges=int(mask.sum()))
    subjects = [subject for batch in discovery_batches for subject in batch.subjects]
    overlaps = validation.bootstrap_stability(
        graph, edge_scores.scores, subjects, int(circuit.sum()), settings.stability_resamples
    )
    yield stats.summary_rows(
        {}, ["stability"], validation.percentile_interval(len(set(subjects)), overlaps.mean(), overlaps)
    )
    if edge_scores.steps:
        yield _point("integration_gap", edge_scores.gap_90, len(edge_scores.gap))
    yield _point("edge_entropy", edge_entropy(scores))
    yield _point("n_edges", int(circuit.sum()))


def _compare_with_known(
    edges: CircuitModel, circuit: torch.Tensor, known_circuit: torch.Tensor
) -> Iterable[pd.DataFrame]:
    """Precision and recall of a circuit's edges and nodes against a known circuit, with the precision of chance."""
    known_components = circuit_components(edges.graph, known_circuit)
    for kind, (discovered, existing) in circuit_components(edges.graph, circuit).items():
        for metric, value in compare_circuits(discovered, known_components[kind][0], existing)._asdict().items():
            yield _point(f"{kind}_{metric}", value, int(known_components[kind][0].sum())).assign(control="known")


def _against_random(
    runs: validation.CircuitRuns,
    circuit: int,
    random: np.ndarray,
    random_connected: np.ndarray,
    settings: CircuitDiscovery,
    control: str,
) -> Iterable[pd.DataFrame]:
    """Faithfulness and hits of a circuit, and its rank among random circuits of two kinds."""
    yield _faithfulness(runs, circuit, "faithfulness", settings)
    hits = runs.hits[circuit][:, None]
    yield stats.summary_rows(
        {}, ["hit_at_1"], stats.cluster_bootstrap(hits, runs.subjects, resamples=settings.resamples)
    )
    f = runs.faithfulness[circuit]
    for name, sampled in (("random", random), ("random_connected", random_connected)):
        yield _point(f"{name}_percentile", float((sampled < f).mean()), len(sampled))
        if not control:
            yield _point(f"{name}_mean", sampled.mean(), len(sampled))
            yield _point(f"{name}_best", sampled.max(), len(sampled))


def _training(
    kind: type[CircuitModel],
    method: Callable[..., EdgeScores],
    checkpoints: Sequence[tuple[int, Path]],
    pairs: Sequence[PromptPair],
    n_edges: int,
) -> pd.DataFrame:
    """Entropy of edge scores at each checkpoint, and overlap of its circuit with the final circuit, on a few pairs."""
    scores, circuits = {}, {}
    for step, folder in checkpoints:
        edges = kind(load_model(folder)[0])
        scores[step] = method(edges, batch_pairs(edges.model, pairs)).scores.mean(0)
        circuits[step] = select_circuit(edges.graph, scores[step], n_edges)
    final = circuits[checkpoints[-1][0]]
    rows = []
    for step, _ in checkpoints:
        rows.append(_point("edge_entropy", edge_entropy(scores[step]), len(pairs)).assign(step=step))
        rows.append(_point("jaccard_with_final", jaccard(circuits[step], final), len(pairs)).assign(step=step))
    return pd.concat(rows)


def _controls(
    edges: CircuitModel,
    discovery_batches: Sequence[PromptPairs],
    method: Callable[..., EdgeScores],
    settings: CircuitDiscovery,
) -> Iterable[tuple[str, torch.Tensor]]:
    """Scores of two null controls: a model with random weights, and answers shuffled between prompts."""
    model = edges.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        random_model = type(model)(model.config).eval().to(model.device)
    embedding_scale = random_model.get_input_embeddings().weight.std() / model.get_input_embeddings().weight.std()
    scaled = [
        replace(batch, clean=batch.clean * embedding_scale, corrupted=batch.corrupted * embedding_scale)
        for batch in discovery_batches
    ]
    yield "random_weights", method(type(edges)(random_model), scaled).scores.mean(0).detach()
    sizes = [len(batch.answers) for batch in discovery_batches]
    answers = torch.cat([batch.answers for batch in discovery_batches]).roll(1, 0).split(sizes)
    shuffled = [
        replace(batch, answers=shuffled_answers)
        for batch, shuffled_answers in zip(discovery_batches, answers, strict=True)
    ]
    yield "shuffled_answers", method(edges, shuffled).scores.mean(0)


def _compare_relations(
    edges: CircuitModel,
    circuits: dict[tuple[str, str], torch.Tensor],
    validation_batches: dict[str, list[PromptPairs]],
    settings: CircuitDiscovery,
) -> Iterable[pd.DataFrame]:
    """Overlap of the circuits of two relations, and faithfulness of each on prompts of the other relation."""
    for (relation, method), circuit in circuits.items():
        keys = {"relation": relation, "method": method}
        for other_relation in validation_batches:
            if other_relation != relation:
                runs = _run(edges, validation_batches[other_relation], [circuit], settings)
                yield _faithfulness(runs, 0, "faithfulness", settings).assign(evaluated_on=other_relation, **keys)
                overlap = _point("jaccard", jaccard(circuit, circuits[other_relation, method]))
                yield overlap.assign(evaluated_on=other_relation, **keys)


def _compare_methods(
    edges: CircuitModel, mean_scores: Mapping[str, Mapping[str, torch.Tensor]]
) -> Iterable[pd.DataFrame]:
    """Pearson correlation between the edge scores of two methods, by relation."""
    is_edge = edges.graph.edges
    for relation, by_method in mean_scores.items():
        for method, other_method in itertools.permutations(by_method, 2):
            both = torch.stack([by_method[method][is_edge], by_method[other_method][is_edge]])
            row = _point("pearson", torch.corrcoef(both)[0, 1].item(), int(is_edge.sum()))
            yield row.assign(evaluated_on=other_method, relation=relation, method=method)


def _faithfulness(runs: validation.CircuitRuns, circuit: int, metric: str, settings: CircuitDiscovery) -> pd.DataFrame:
    resampled = runs.resampled(settings.resamples)[:, circuit]
    return stats.summary_rows(
        {}, [metric], validation.percentile_interval(len(runs.full), runs.faithfulness[circuit], resampled)
    )


def _point(metric: str, value: float, n: int = 1) -> pd.DataFrame:
    missing = np.array([np.nan])
    return stats.summary_rows(
        {}, [metric], stats.Interval(np.array([n]), np.array([value]), missing, missing), interval_over=""
    )
