"""MEND (Mitchell et al. 2022, 2110.11309): a network that makes changes of weights of the gradients of requests."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
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

from factlife.config.editing import EditRequests, EditSite
from factlife.config.editing import HypernetworkTraining as Settings
from factlife.editing import request_files
from factlife.editing.editable import EditableModel, EditSequence, freeze_weights, to_weight_layout, tokenize_prompt
from factlife.editing.editors.tuning import pad_sequences, training_sequences
from factlife.editing.editors.ultraedit import RunningStatistics
from factlife.editing.requests import EditError
from factlife.models.anatomy import capture, unembed, weight_matrix
from factlife.recall.score import AnswerTokens
from factlife.world import World

# By the name of a linear map: what it reads, (token, in), and the gradient of the loss by what it returns, (token, out).
Factors = dict[str, tuple[Tensor, Tensor]]

_END = EditSite(fact_token="last")
# Requests whose gradients are in memory at once.
_AT_ONCE = 32


class _Residual(nn.Module):
    """z + σ(s ⊙ (U V z + b) + o), with s and o of each map and all else shared."""

    def __init__(self, width: int, rank: int, maps: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.up, self.bias = nn.Parameter(torch.zeros(width, rank)), nn.Parameter(torch.zeros(width))
        self.scale, self.shift = nn.Parameter(torch.ones(maps, width)), nn.Parameter(torch.zeros(maps, width))

    def forward(self, z: Tensor, number: int) -> Tensor:
        inside = self.scale[number] * (z @ self.down.T @ self.up.T + self.bias) + self.shift[number]
        # ReLU; but at zero, where every unit begins, this has a gradient.
        return z + inside.clamp(min=0)


class _Shape(nn.Module):
    """What maps of one shape share, and what each has of its own."""

    def __init__(self, width: int, rank: int, maps: int, rate: float) -> None:
        super().__init__()
        self.first, self.second = (_Residual(width, min(rank, width), maps) for _ in range(2))
        self.log_rate = nn.Parameter(torch.full((maps,), rate).log())
        self.register_buffer("mean", torch.zeros(maps, width))
        self.register_buffer("deviation", torch.ones(maps, width))


class Hypernetwork(nn.Module):
    """From what a linear map reads and the gradient of what it returns, u and δ, to the change of its weight.

    The gradient of a weight is Σ δ uᵀ over tokens. Of every token z = [u; δ], each entry less its mean and over its standard
    deviation, becomes [ũ; δ̃] (eq. 3), and

        h = z + σ(s₁ ⊙ (U₁ V₁ z + b₁) + o₁),    [ũ; δ̃] = h + σ(s₂ ⊙ (U₂ V₂ h + b₂) + o₂),    ΔW = -α Σ δ̃ ũᵀ.

    No gradient of a whole weight is ever made. U, V and b are shared by all maps of one shape; s, o, α, means and deviations
    are each map's own. U, b and o begin with zero, so that the change is at first a step along the standardised gradient.
    α is learned as its logarithm. A change is a sum over tokens, and so over requests.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], *, rank: int, rate: float) -> None:
        """A network for maps of the given shapes, (in, out), by name; ``rate`` is α at first."""
        super().__init__()
        self.shapes, self.rank = {name: (int(read), int(out)) for name, (read, out) in shapes.items()}, rank
        alike: dict[str, list[str]] = {}
        for name, shape in self.shapes.items():
            alike.setdefault("{}x{}".format(*shape), []).append(name)
        self.where = {name: (shape, number) for shape, names in alike.items() for number, name in enumerate(names)}
        self.parts = nn.ModuleDict(
            {
                shape: _Shape(sum(self.shapes[names[0]]), rank, len(names), rate)
                for shape, names in sorted(alike.items())
            }
        )

    def standardise(self, name: str, mean: Tensor, deviation: Tensor) -> None:
        """Set the mean and standard deviation of one map's z; entries that never vary, but for rounding, become 0."""
        shape, number = self.where[name]
        self.parts[shape].mean[number] = mean
        self.parts[shape].deviation[number] = torch.where(deviation > 1e-6 * mean.abs(), deviation, torch.inf)

    def change(self, name: str, read: Tensor, slopes: Tensor) -> Tensor:
        """ΔW of one map, (out, in), from u, (token, in), and δ, (token, out)."""
        shape, number = self.where[name]
        part = self.parts[shape]
        z = (torch.cat([read, slopes], 1) - part.mean[number]) / part.deviation[number]
        read, slopes = part.second(part.first(z, number), number).split(self.shapes[name], 1)
        return -part.log_rate[number].exp() * slopes.T @ read

    def changes(self, found: Factors) -> dict[str, Tensor]:
        """ΔW of every map, (out, in), by name."""
        return {name: self.change(name, *factors) for name, factors in found.items()}


def edited_modules(target: EditableModel, settings: Settings) -> dict[str, nn.Module]:
    """The linear maps that are changed, by name: those of the blocks' MLPs, or those that are named.

    Raises:
        EditError: there is no such map.
    """
    known = {name: part for name, part in target.model.named_modules() if isinstance(part, (nn.Linear, Conv1D))}
    if settings.modules:
        for name in settings.modules:
            if name not in known:
                raise EditError(
                    f"the model has no linear map {name!r}; change `modules`, or empty it and give `layers`"
                )
        return {name: known[name] for name in settings.modules}
    blocks = [target.parts.blocks[target.layer(layer)].mlp for layer in settings.layers]
    inside = {id(part) for block in blocks for part in block.modules()}
    return {name: part for name, part in known.items() if id(part) in inside}


def gradient_factors(target: EditableModel, modules: Mapping[str, nn.Module], made: Sequence[EditSequence]) -> Factors:
    """U and δ of the loss Σ over sequences of the mean over the answer's tokens of -log p, of all tokens but padding.

    Args:
        target: the model, as it is.
        modules: linear maps by name.
        made: requests as tokens; what is found of one does not depend on the others.
    """
    ids, labels, mask = pad_sequences(made, target.tokenizer.pad_token_id or 0, target.model.device)
    with torch.enable_grad(), capture(modules, inputs=True) as read, capture(modules) as returned:
        logits = target.model(ids, attention_mask=mask, use_cache=False).logits
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        loss = (nats.sum(1) / (labels >= 0).sum(1)).sum()
        slopes = torch.autograd.grad(loss, [returned[name] for name in modules])
    here = mask.bool()
    return {name: (read[name][here].detach(), slope[here]) for name, slope in zip(modules, slopes, strict=True)}


@dataclass(frozen=True)
class TrainEdit:
    """A request from which is learned.

    Attributes:
        edit_id: of the request.
        request: its prompt and new value, as tokens.
        again: the same, and other prompts of the new value.
        kept: the fact that it is about, and tokens, of what is to be answered as before.
    """

    edit_id: str
    request: EditSequence
    again: list[EditSequence]
    kept: list[tuple[str, EditSequence]]


def select_train_edits(
    target: EditableModel,
    settings: EditRequests,
    evaluated: pd.DataFrame,
    *,
    n_edits: int,
    world: World,
    path: str | None = None,
    recalled: set[str] | None = None,
) -> list[TrainEdit]:
    """Requests about subjects that no evaluated request is about.

    From a world, the other prompts are trained ones of the fact, never a held-out template, and what is to be kept are the
    subject's other facts and those of others with the same old value. From a file, they are its paraphrases and neighbours.

    Args:
        target: whose tokenizer writes them.
        settings: where evaluated requests come from, and these.
        evaluated: those requests.
        n_edits: number of lessons, at most.
        world: of the model.
        path: see ``public.make``.
        recalled: see ``public.make``.

    Raises:
        EditError: there is none.
    """
    # Enough to leave out all that is asked about evaluated subjects.
    more = settings.model_copy(update={"count": 10 * settings.count + 2 * n_edits})
    requests, probes = request_files.select_requests(more, target.tokenizer, world=world, path=path, recalled=recalled)
    strangers = ~requests["subject"].isin(set(evaluated["subject"])) & (requests["dropped"] == "")
    requests = requests[strangers].head(n_edits)
    if requests.empty:
        raise EditError(
            "no request is about a subject that no evaluated request is about; lower `requests.count`, or give more"
        )
    from_world = settings.kind == "world"
    asked, kept = (
        _locality_from_world(requests, world, set(evaluated["entity_id"]))
        if from_world
        else _locality_from_file(probes)
    )
    answers, found = AnswerTokens(target.tokenizer), []
    for one, request in zip(requests.itertuples(), training_sequences(target, requests), strict=True):
        prompts = [prompt for prompt in asked.get(one.edit_id, []) if answers.encode_after(prompt, one.target_new)]
        again = [request, *(tokenize_prompt(target, _END, prompt, "", one.target_new) for prompt in prompts)]
        still = [
            (about, tokenize_prompt(target, _END, prompt, "", answer))
            for about, prompt, answer in kept.get(one.edit_id, [])
            if answers.encode_after(prompt, answer)
        ]
        found.append(TrainEdit(one.edit_id, request, again, still))
    logging.info(
        "%d lessons with %.1f prompts of the new value and %.1f of what is kept on average",
        len(found),
        sum(len(one.again) for one in found) / len(found),
        sum(len(one.kept) for one in found) / len(found),
    )
    return found


_Asked = dict[str, list[str]]
_Kept = dict[str, list[tuple[str, str, str]]]


def _locality_from_world(requests: pd.DataFrame, world: World, evaluated: set[str]) -> tuple[_Asked, _Kept]:
    trained = world.probes[
        ~world.probes["held_out_template"] & world.probes["kind"].isin(["forward", "prefixed", "question"])
    ]
    prompts = trained.groupby("fact_id")["prompt"].agg(list).to_dict()
    first = trained[trained["kind"] == "forward"].drop_duplicates("fact_id").set_index("fact_id")["prompt"]
    facts = world.facts[world.facts["fact_id"].isin(first.index) & ~world.facts["entity_id"].isin(evaluated)]
    by_subject, alike = (
        {found: group["fact_id"].tolist() for found, group in facts.groupby(columns)}
        for columns in ("entity_id", ["relation", "value"])
    )
    values = facts.set_index("fact_id")["value"]
    kept = {
        one.edit_id: [
            (other, first[other], values[other])
            for other in [*by_subject[one.entity_id], *alike[one.relation, one.target_true]]
            if other != one.edit_id
        ]
        for one in requests.itertuples()
    }
    return prompts, kept


def _locality_from_file(probes: pd.DataFrame) -> tuple[_Asked, _Kept]:
    prompts = probes[probes["metric"] == "paraphrase"].groupby("edit_id")["prompt"].agg(list).to_dict()
    near = probes[probes["metric"] == "neighbourhood"]
    kept: _Kept = {}
    for one in near.itertuples():
        kept.setdefault(one.edit_id, []).append((one.fact_id, one.prompt, one.target))
    return prompts, kept


def train_hypernetwork(
    target: EditableModel, learned: Sequence[TrainEdit], settings: Settings
) -> tuple[Hypernetwork, list[dict[str, float]]]:
    """Train a network by Adam on c · L_e + L_loc (eq. 4), a batch of lessons written at once in every step.

    L_e is the mean over lessons of -log p per token of the new value, after one of its prompts; L_loc the mean over three
    prompts a lesson, two of what it is to keep and one of what another is to, of KL(original ‖ edited) per token of the
    answer. Facts that the batch edits are not to be kept.

    Args:
        target: the model; its weights stay as they are.
        learned: the lessons.
        settings: of the network and its training.

    Returns:
        The network, and twenty rows of the log: ``step``, and since the last one the means of ``edit_loss``, ``locality_kl`` and
        ``edit_accuracy``, the share of new values whose every token is the most probable one.
    """
    modules, device = edited_modules(target, settings), target.model.device
    shapes = {name: weight_matrix(module).shape[::-1] for name, module in modules.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        network = Hypernetwork(shapes, rank=settings.rank, rate=settings.edit_lr).to(device)
    for name, (mean, deviation) in _statistics(target, modules, learned).items():
        network.standardise(name, mean, deviation)
    rates = [part for name, part in network.named_parameters() if name.endswith("log_rate")]
    others = [part for name, part in network.named_parameters() if not name.endswith("log_rate")]
    optimizer = torch.optim.Adam(
        [{"params": others}, {"params": rates, "lr": 10 * settings.learning_rate}], lr=settings.learning_rate
    )
    rng, log, seen = random.Random(f"mend {settings.seed}"), [], []
    every = max(1, settings.steps // 20)
    for step in range(1, settings.steps + 1):
        batch = rng.sample(learned, min(settings.edits_per_batch, len(learned)))
        changes = network.changes(gradient_factors(target, modules, [one.request for one in batch]))
        with freeze_weights(target.model):
            said, drift, right = _losses(target, modules, changes, *_sample_sequences(batch, learned, rng))
        optimizer.zero_grad()
        (settings.cedit * said + drift).backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimizer.step()
        seen.append((said.item(), drift.item(), right))
        if step % every == 0 or step == settings.steps:
            means = [sum(column) / len(seen) for column in zip(*seen, strict=True)]
            log.append({"step": step} | dict(zip(("edit_loss", "locality_kl", "edit_accuracy"), means, strict=True)))
            logging.info(
                "step %d: edits %.3f nats, %.3f right; what is kept %.4f nats off", step, means[0], means[2], means[1]
            )
            seen = []
    return network.requires_grad_(False), log


def _statistics(
    target: EditableModel, modules: Mapping[str, nn.Module], learned: Sequence[TrainEdit]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every map's [u; δ] over the tokens of all lessons."""
    known: dict[str, RunningStatistics] = {}
    for found in batched_gradient_factors(target, modules, [one.request for one in learned]):
        for name, factors_ in found.items():
            now = RunningStatistics.of(torch.cat(factors_, 1).double())
            known[name] = known[name].join(now) if name in known else now
    return {name: (running.mean, (running.squares / running.count).sqrt()) for name, running in known.items()}


def batched_gradient_factors(
    target: EditableModel, modules: Mapping[str, nn.Module], made: Sequence[EditSequence]
) -> Iterator[Factors]:
    """``factors`` of some requests after the other."""
    for start in range(0, len(made), _AT_ONCE):
        yield gradient_factors(target, modules, made[start : start + _AT_ONCE])


def _sample_sequences(
    batch: Sequence[TrainEdit], learned: Sequence[TrainEdit], rng: random.Random
) -> tuple[list[EditSequence], list[EditSequence]]:
    """A prompt of each new value, and prompts of what is to be kept."""
    edited = {one.edit_id for one in batch}
    kept = []
    for one in batch:
        for lesson, number in ((one, 2), (rng.choice(learned), 1)):
            free = [made for about, made in lesson.kept if about not in edited]
            kept += rng.sample(free, min(number, len(free)))
    return [rng.choice(one.again) for one in batch], kept


def _losses(
    target: EditableModel,
    modules: Mapping[str, nn.Module],
    changes: Mapping[str, Tensor],
    asked: list[EditSequence],
    kept: list[EditSequence],
) -> tuple[Tensor, Tensor, float]:
    """L_e and L_loc of changes, and the share of new values that are said."""
    made = [*asked, *kept]
    ids, labels, mask = pad_sequences(made, target.tokenizer.pad_token_id or 0, target.model.device)
    at = labels >= 0
    edits = at & (torch.arange(len(made), device=at.device) < len(asked))[:, None]
    still = at & ~edits
    changed = {
        f"{name}.weight": module.weight + to_weight_layout(module, changes[name]) for name, module in modules.items()
    }
    log_p = _log_probs(target, changed, ids, mask)
    share, now = 1 / (at.sum(1, keepdim=True) * at), log_p(edits)
    said = -(now.gather(1, labels[edits][:, None])[:, 0] * share[edits]).sum() / len(asked)
    wrong = (now.argmax(-1) != labels[edits]).float()
    missed = torch.zeros(len(made), device=wrong.device).index_add(0, edits.nonzero()[:, 0], wrong)
    right = float((missed[: len(asked)] == 0).float().mean())
    if not kept:
        return said, torch.zeros_like(said), right
    with torch.no_grad():
        before = _log_probs(target, {}, ids[len(asked) :], mask[len(asked) :])(still[len(asked) :])
    drift = (before.exp() * (before - log_p(still))).sum(1)
    return said, (drift * share[still]).sum() / len(kept), right


def _log_probs(target: EditableModel, changed: Mapping[str, Tensor], ids: Tensor, mask: Tensor) -> Any:
    """Log probabilities where they are asked for, (place, vocabulary), of the model with some weights changed."""
    with capture({"final": target.parts.final_norm}) as found:
        functional_call(
            target.model, dict(changed), (),
            {"input_ids": ids, "attention_mask": mask, "use_cache": False, "logits_to_keep": 1},
        )  # fmt: skip
    return lambda places: unembed(target.parts, found["final"][places]).float().log_softmax(-1)


def save_hypernetwork(network: Hypernetwork, path: str | Path, **about: Any) -> None:
    """Write a network, with what it was trained on."""
    made = {"shapes": network.shapes, "rank": network.rank} | about
    tensors = {name: part.detach().cpu().contiguous() for name, part in network.state_dict().items()}
    save_file(tensors, path, {"about": json.dumps(made, sort_keys=True)})


def load_hypernetwork(path: str | Path, *, model: str | None = None, device: str = "cpu") -> Hypernetwork:
    """Read a network.

    Args:
        path: what ``save`` wrote.
        model: digest of the weights to which it must belong.
        device: where it goes.

    Raises:
        EditError: it belongs to another model.
    """
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        if model is not None and about["model"] != model:
            raise EditError(
                f"{path} was trained on other weights ({about['model'][:8]}… there, {model[:8]}… here); "
                "delete it and run again"
            )
        network = Hypernetwork(about["shapes"], rank=about["rank"], rate=1.0)
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return network.to(device).requires_grad_(False)
