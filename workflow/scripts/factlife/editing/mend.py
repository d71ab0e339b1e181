"""MEND (Mitchell et al. 2022, 2110.11309): a hypernetwork that maps the gradients of requests to weight changes."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from factlife.config.editing import EditRequests, EditSite, HypernetworkTraining
from factlife.editing import request_files
from factlife.editing.editable import EditableModel, EditSequence, freeze_weights, to_weight_layout, tokenize_prompt
from factlife.editing.editors.tuning import pad_sequences, training_sequences
from factlife.editing.editors.ultraedit import RunningStatistics
from factlife.editing.requests import EditError
from factlife.models.anatomy import capture, unembed, weight_matrix
from factlife.recall.score import AnswerTokens
from factlife.world import World

# By the name of a linear map: its inputs, (token, in), and the gradients of the loss with respect to its outputs, (token, out).
Factors = dict[str, tuple[Tensor, Tensor]]

_LAST_TOKEN = EditSite(fact_token="last")
# Requests whose gradients are in memory at the same time.
_GRADIENT_BATCH_SIZE = 32


class _ResidualLayer(nn.Module):
    """z + σ(s ⊙ (U V z + b) + o), where s and o belong to one map and the other parameters are shared."""

    def __init__(self, width: int, rank: int, n_maps: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.up, self.bias = nn.Parameter(torch.zeros(width, rank)), nn.Parameter(torch.zeros(width))
        self.scale, self.shift = nn.Parameter(torch.ones(n_maps, width)), nn.Parameter(torch.zeros(n_maps, width))

    def forward(self, z: Tensor, index: int) -> Tensor:
        hidden = self.scale[index] * (z @ self.down.T @ self.up.T + self.bias) + self.shift[index]
        # A ReLU whose gradient at zero, the initial value of every unit, does not vanish.
        return z + hidden.clamp(min=0)


class _ShapeNetwork(nn.Module):
    """Parameters that maps of one shape share, and the parameters of each map."""

    def __init__(self, width: int, rank: int, n_maps: int, edit_lr: float) -> None:
        super().__init__()
        self.first, self.second = (_ResidualLayer(width, min(rank, width), n_maps) for _ in range(2))
        self.log_edit_lr = nn.Parameter(torch.full((n_maps,), edit_lr).log())
        self.register_buffer("mean", torch.zeros(n_maps, width))
        self.register_buffer("deviation", torch.ones(n_maps, width))


class Hypernetwork(nn.Module):
    """Maps the inputs u of a linear map and the gradients δ with respect to its outputs to the change of its weight.

    The gradient of a weight is Σ δ uᵀ over tokens. For every token, z = [u; δ] is standardised entry by entry (eq. 3), and

        h = z + σ(s₁ ⊙ (U₁ V₁ z + b₁) + o₁),    [ũ; δ̃] = h + σ(s₂ ⊙ (U₂ V₂ h + b₂) + o₂),    ΔW = -α Σ δ̃ ũᵀ.

    No gradient of a whole weight is ever computed. U, V and b are shared by all maps of one shape; s, o, α, means and
    deviations belong to one map. U, b and o are zero initially, so that the initial change is a step along the standardised
    gradient. α is learned as its logarithm. A change is a sum over tokens, and therefore over requests.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], *, rank: int, edit_lr: float) -> None:
        """A hypernetwork for maps of the given shapes, (in, out), by name; ``edit_lr`` is the initial α."""
        super().__init__()
        self.shapes = {name: (int(d_in), int(d_out)) for name, (d_in, d_out) in shapes.items()}
        self.rank = rank
        names_by_shape: dict[str, list[str]] = {}
        for name, shape in self.shapes.items():
            names_by_shape.setdefault("{}x{}".format(*shape), []).append(name)
        self.index_of = {name: (shape, i) for shape, names in names_by_shape.items() for i, name in enumerate(names)}
        self.networks = nn.ModuleDict(
            {
                shape: _ShapeNetwork(sum(self.shapes[names[0]]), rank, len(names), edit_lr)
                for shape, names in sorted(names_by_shape.items())
            }
        )

    def set_statistics(self, name: str, mean: Tensor, deviation: Tensor) -> None:
        """Set the mean and standard deviation of one map's z; entries that are constant up to rounding become 0."""
        shape, index = self.index_of[name]
        self.networks[shape].mean[index] = mean
        self.networks[shape].deviation[index] = torch.where(deviation > 1e-6 * mean.abs(), deviation, torch.inf)

    def weight_change(self, name: str, inputs: Tensor, gradients: Tensor) -> Tensor:
        """ΔW of one map, (out, in), from u, (token, in), and δ, (token, out)."""
        shape, index = self.index_of[name]
        network = self.networks[shape]
        z = (torch.cat([inputs, gradients], 1) - network.mean[index]) / network.deviation[index]
        inputs, gradients = network.second(network.first(z, index), index).split(self.shapes[name], 1)
        return -network.log_edit_lr[index].exp() * gradients.T @ inputs

    def weight_changes(self, factors: Factors) -> dict[str, Tensor]:
        """ΔW of every map, (out, in), by name."""
        return {name: self.weight_change(name, *map_factors) for name, map_factors in factors.items()}


def edited_modules(target: EditableModel, settings: HypernetworkTraining) -> dict[str, nn.Module]:
    """The linear maps to edit, by name: those in the MLPs of some blocks, or those named in the config.

    Raises:
        EditError: there is no such map.
    """
    linear = {name: module for name, module in target.model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    if settings.modules:
        for name in settings.modules:
            if name not in linear:
                raise EditError(f"the model has no linear map {name!r}; change `modules`, or empty it and set `layers`")
        return {name: linear[name] for name in settings.modules}
    mlps = [target.parts.blocks[target.layer_index(layer)].mlp for layer in settings.layers]
    inner_modules = {id(module) for mlp in mlps for module in mlp.modules()}
    return {name: module for name, module in linear.items() if id(module) in inner_modules}


def gradient_factors(
    target: EditableModel, modules: Mapping[str, nn.Module], sequences: Sequence[EditSequence]
) -> Factors:
    """U and δ at all tokens except padding, of the loss Σ over sequences of the mean of -log p over answer tokens.

    Args:
        target: the model, as it is.
        modules: linear maps by name.
        sequences: tokenized requests; their factors do not depend on each other.
    """
    ids, labels, mask = pad_sequences(sequences, target.tokenizer.pad_token_id or 0, target.model.device)
    with torch.enable_grad(), capture(modules, inputs=True) as inputs, capture(modules) as outputs:
        logits = target.model(ids, attention_mask=mask, use_cache=False).logits
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        loss = (nll.sum(1) / (labels >= 0).sum(1)).sum()
        gradients = torch.autograd.grad(loss, [outputs[name] for name in modules])
    is_token = mask.bool()
    return {
        name: (inputs[name][is_token].detach(), gradient[is_token])
        for name, gradient in zip(modules, gradients, strict=True)
    }


def batched_gradient_factors(
    target: EditableModel, modules: Mapping[str, nn.Module], sequences: Sequence[EditSequence]
) -> Iterator[Factors]:
    """``gradient_factors``, a batch of requests at a time."""
    for start in range(0, len(sequences), _GRADIENT_BATCH_SIZE):
        yield gradient_factors(target, modules, sequences[start : start + _GRADIENT_BATCH_SIZE])


@dataclass(frozen=True)
class TrainEdit:
    """A training request of the hypernetwork.

    Attributes:
        edit_id: of the request.
        request: its prompt and new value, as tokens.
        rewrites: the request and other prompts with the new value.
        locality: fact id and tokens of prompts whose answers must not change.
    """

    edit_id: str
    request: EditSequence
    rewrites: list[EditSequence]
    locality: list[tuple[str, EditSequence]]


def select_train_edits(
    target: EditableModel,
    settings: EditRequests,
    evaluated: pd.DataFrame,
    *,
    n_edits: int,
    world: World | None = None,
    path: str | None = None,
    recalled: set[str] | None = None,
) -> list[TrainEdit]:
    """Requests about subjects that no evaluated request is about.

    From a world, the other prompts are training prompts of the fact, never a held-out template, and the locality prompts ask
    for the subject's other facts and for facts of others with the same old value. From a file, they are its paraphrases and
    neighbours.

    Args:
        target: the model, whose tokenizer is used.
        settings: the source of the evaluated requests, and of these.
        evaluated: the evaluated requests.
        n_edits: maximum number of training requests.
        world: of the model; None for requests from a file.
        path: the file of requests, if they come from one.
        recalled: ids of the probes that the model answers; None for no restriction.

    Raises:
        EditError: there is none.
    """
    # Enough to exclude all requests about evaluated subjects.
    larger = settings.model_copy(update={"count": 10 * settings.count + 2 * n_edits})
    requests, probes = request_files.select_requests(
        larger, target.tokenizer, world=world, path=path, recalled=recalled
    )
    eligible = ~requests["subject"].isin(set(evaluated["subject"])) & (requests["dropped"] == "")
    requests = requests[eligible].head(n_edits)
    if requests.empty:
        raise EditError(
            "every request is about a subject of an evaluated request; lower `requests.count`, or provide more requests"
        )
    if settings.kind == "world" and world is not None:
        prompts, locality = _prompts_from_world(requests, world, set(evaluated["entity_id"]))
    else:
        prompts, locality = _prompts_from_file(probes)
    answers, train_edits = AnswerTokens(target.tokenizer), []
    sequences = training_sequences(target, requests)
    for request, sequence in zip(requests.itertuples(), sequences, strict=True):
        rewrites = [
            tokenize_prompt(target, _LAST_TOKEN, prompt, "", request.target_new)
            for prompt in prompts.get(request.edit_id, [])
            if answers.encode_after(prompt, request.target_new)
        ]
        preserved = [
            (fact_id, tokenize_prompt(target, _LAST_TOKEN, prompt, "", answer))
            for fact_id, prompt, answer in locality.get(request.edit_id, [])
            if answers.encode_after(prompt, answer)
        ]
        train_edits.append(TrainEdit(request.edit_id, sequence, [sequence, *rewrites], preserved))
    logging.info(
        "%d training requests with %.1f prompts of the new value and %.1f locality prompts on average",
        len(train_edits),
        sum(len(train_edit.rewrites) for train_edit in train_edits) / len(train_edits),
        sum(len(train_edit.locality) for train_edit in train_edits) / len(train_edits),
    )
    return train_edits


_Prompts = dict[str, list[str]]
_Locality = dict[str, list[tuple[str, str, str]]]


def _prompts_from_world(requests: pd.DataFrame, world: World, evaluated: set[str]) -> tuple[_Prompts, _Locality]:
    trained = world.probes[
        ~world.probes["held_out_template"] & world.probes["kind"].isin(["forward", "prefixed", "question"])
    ]
    prompts = trained.groupby("fact_id")["prompt"].agg(list).to_dict()
    first = trained[trained["kind"] == "forward"].drop_duplicates("fact_id").set_index("fact_id")["prompt"]
    facts = world.facts[world.facts["fact_id"].isin(first.index) & ~world.facts["entity_id"].isin(evaluated)]
    by_subject, by_value = (
        {key: group["fact_id"].tolist() for key, group in facts.groupby(columns)}
        for columns in ("entity_id", ["relation", "value"])
    )
    values = facts.set_index("fact_id")["value"]
    locality = {
        request.edit_id: [
            (fact_id, first[fact_id], values[fact_id])
            for fact_id in [*by_subject[request.entity_id], *by_value[request.relation, request.target_true]]
            if fact_id != request.edit_id
        ]
        for request in requests.itertuples()
    }
    return prompts, locality


def _prompts_from_file(probes: pd.DataFrame) -> tuple[_Prompts, _Locality]:
    prompts = probes[probes["metric"] == "paraphrase"].groupby("edit_id")["prompt"].agg(list).to_dict()
    locality: _Locality = {}
    for probe in probes[probes["metric"] == "neighbourhood"].itertuples():
        locality.setdefault(probe.edit_id, []).append((probe.fact_id, probe.prompt, probe.target))
    return prompts, locality


def train_hypernetwork(
    target: EditableModel, train_edits: Sequence[TrainEdit], settings: HypernetworkTraining
) -> tuple[Hypernetwork, list[dict[str, float]]]:
    """Train a hypernetwork by Adam on c_edit · L_e + L_loc (eq. 4), with a batch of requests edited at once in every step.

    L_e is the mean over requests of -log p per token of the new value, after one of its prompts. L_loc is the mean over three
    prompts per request, two of its own locality prompts and one of another request's, of KL(original ‖ edited) per token of
    the answer. Facts that the batch edits are no locality prompts.

    Args:
        target: the model; its weights do not change.
        train_edits: the training requests.
        settings: of the hypernetwork and its training.

    Returns:
        The hypernetwork, and twenty rows of a log: ``step``, and the means since the previous row of ``edit_loss``,
        ``locality_kl`` and ``edit_accuracy``, the fraction of new values whose every token is the argmax.
    """
    modules, device = edited_modules(target, settings), target.model.device
    shapes = {name: weight_matrix(module).shape[::-1] for name, module in modules.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        network = Hypernetwork(shapes, rank=settings.rank, edit_lr=settings.edit_lr).to(device)
    for name, (mean, deviation) in _statistics(target, modules, train_edits).items():
        network.set_statistics(name, mean, deviation)
    edit_lrs = [parameter for name, parameter in network.named_parameters() if name.endswith("log_edit_lr")]
    parameters = [parameter for name, parameter in network.named_parameters() if not name.endswith("log_edit_lr")]
    optimizer = torch.optim.Adam(
        [{"params": parameters}, {"params": edit_lrs, "lr": 10 * settings.learning_rate}], lr=settings.learning_rate
    )
    rng, log, recent = random.Random(f"mend {settings.seed}"), [], []
    log_every = max(1, settings.steps // 20)
    for step in range(1, settings.steps + 1):
        batch = rng.sample(train_edits, min(settings.edits_per_batch, len(train_edits)))
        factors = gradient_factors(target, modules, [train_edit.request for train_edit in batch])
        changes = network.weight_changes(factors)
        with freeze_weights(target.model):
            edit_loss, locality_kl, accuracy = _losses(
                target, modules, changes, *_sample_sequences(batch, train_edits, rng)
            )
        optimizer.zero_grad()
        (settings.cedit * edit_loss + locality_kl).backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimizer.step()
        recent.append((edit_loss.item(), locality_kl.item(), accuracy))
        if step % log_every == 0 or step == settings.steps:
            means = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
            log.append({"step": step} | dict(zip(("edit_loss", "locality_kl", "edit_accuracy"), means, strict=True)))
            logging.info(
                "step %d: edit loss %.3f, edit accuracy %.3f, locality KL %.4f", step, means[0], means[2], means[1]
            )
            recent = []
    return network.requires_grad_(False), log


def _statistics(
    target: EditableModel, modules: Mapping[str, nn.Module], train_edits: Sequence[TrainEdit]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every map's [u; δ] over the tokens of all training requests."""
    statistics: dict[str, RunningStatistics] = {}
    requests = [train_edit.request for train_edit in train_edits]
    for factors in batched_gradient_factors(target, modules, requests):
        for name, map_factors in factors.items():
            batch = RunningStatistics.of(torch.cat(map_factors, 1).double())
            statistics[name] = statistics[name].join(batch) if name in statistics else batch
    return {name: (running.mean, (running.squares / running.count).sqrt()) for name, running in statistics.items()}


def _sample_sequences(
    batch: Sequence[TrainEdit], train_edits: Sequence[TrainEdit], rng: random.Random
) -> tuple[list[EditSequence], list[EditSequence]]:
    """One prompt of each new value, and locality prompts."""
    edit_ids = {train_edit.edit_id for train_edit in batch}
    locality = []
    for train_edit in batch:
        for source, n_prompts in ((train_edit, 2), (rng.choice(train_edits), 1)):
            candidates = [sequence for fact_id, sequence in source.locality if fact_id not in edit_ids]
            locality += rng.sample(candidates, min(n_prompts, len(candidates)))
    return [rng.choice(train_edit.rewrites) for train_edit in batch], locality


def _losses(
    target: EditableModel,
    modules: Mapping[str, nn.Module],
    changes: Mapping[str, Tensor],
    rewrites: list[EditSequence],
    locality: list[EditSequence],
) -> tuple[Tensor, Tensor, float]:
    """L_e and L_loc of some weight changes, and the fraction of new values that are the argmax."""
    sequences = [*rewrites, *locality]
    ids, labels, mask = pad_sequences(sequences, target.tokenizer.pad_token_id or 0, target.model.device)
    is_answer = labels >= 0
    in_rewrite = is_answer & (torch.arange(len(sequences), device=is_answer.device) < len(rewrites))[:, None]
    in_locality = is_answer & ~in_rewrite
    weights = {
        f"{name}.weight": module.weight + to_weight_layout(module, changes[name]) for name, module in modules.items()
    }
    log_probs_at = _log_probs(target, weights, ids, mask)
    token_weight, log_probs = 1 / (is_answer.sum(1, keepdim=True) * is_answer), log_probs_at(in_rewrite)
    token_log_probs = log_probs.gather(1, labels[in_rewrite][:, None])[:, 0]
    edit_loss = -(token_log_probs * token_weight[in_rewrite]).sum() / len(rewrites)
    is_wrong = (log_probs.argmax(-1) != labels[in_rewrite]).float()
    n_wrong = torch.zeros(len(sequences), device=is_wrong.device)
    n_wrong = n_wrong.index_add(0, in_rewrite.nonzero()[:, 0], is_wrong)
    accuracy = float((n_wrong[: len(rewrites)] == 0).float().mean())
    if not locality:
        return edit_loss, torch.zeros_like(edit_loss), accuracy
    n_rewrites = len(rewrites)
    with torch.no_grad():
        original = _log_probs(target, {}, ids[n_rewrites:], mask[n_rewrites:])(in_locality[n_rewrites:])
    kl = (original.exp() * (original - log_probs_at(in_locality))).sum(1)
    return edit_loss, (kl * token_weight[in_locality]).sum() / len(locality), accuracy


def _log_probs(
    target: EditableModel, weights: Mapping[str, Tensor], ids: Tensor, mask: Tensor
) -> Callable[[Tensor], Tensor]:
    """Log probabilities of the model with some weights replaced, as a function of a mask of positions."""
    with capture({"final": target.parts.final_norm}) as hidden:
        functional_call(
            target.model, dict(weights), (),
            {"input_ids": ids, "attention_mask": mask, "use_cache": False, "logits_to_keep": 1},
        )  # fmt: skip
    return lambda positions: unembed(target.parts, hidden["final"][positions]).float().log_softmax(-1)


def save_hypernetwork(network: Hypernetwork, path: str | Path, **about: Any) -> None:
    """Write a hypernetwork, with facts about its training."""
    metadata = {"shapes": network.shapes, "rank": network.rank} | about
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, {"about": json.dumps(metadata, sort_keys=True)})


def load_hypernetwork(path: str | Path, *, model: str | None = None, device: str = "cpu") -> Hypernetwork:
    """Read a hypernetwork.

    Args:
        path: written by ``save_hypernetwork``.
        model: digest of the weights for which it must have been trained.
        device: of the hypernetwork.

    Raises:
        EditError: it was trained for another model.
    """
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        if model is not None and about["model"] != model:
            raise EditError(
                f"{path} was trained on other weights ({about['model'][:8]}… there, {model[:8]}… here); "
                "delete it and run again"
            )
        network = Hypernetwork(about["shapes"], rank=about["rank"], edit_lr=1.0)
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return network.to(device).requires_grad_(False)
