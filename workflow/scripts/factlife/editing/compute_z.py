"""Target values: the vectors that, added to the residual stream at the edited token, make a model say the new values.

All requests at once: each has a row of one matrix, and rows do not know of each other (ROME, Meng et al. 2022, eq. 4;
MEMIT, Meng et al. 2023, eq. 16).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from factlife.config.editing import ClosedFormEditor, EditSchedule, EditSite, TargetVectorSettings
from factlife.editing.editable import EditableModel, EditSequence, freeze_weights, tokenize_prompt
from factlife.editing.requests import EditError, scheduled_requests
from factlife.editing.suffix import Suffixes
from factlife.models.anatomy import capture, stop_after, unembed
from factlife.recall.score import AnswerTokens

_ESSENCE = "{} is a"


class VectorSlot(NamedTuple):
    """What is written about a request with one vector.

    Attributes:
        vector: number of the vector, which slots may share.
        request: row of the request.
        token: which of the answer's tokens; None for all of them.
    """

    vector: int
    request: int
    token: int | None


@dataclass(frozen=True)
class TargetVectors:
    """What was found.

    Attributes:
        slots: what each vector is for.
        initial: residual stream after the last edited block, (vector, d_model).
        delta: what, added to it, makes the model say the new values, (vector, d_model).
        written: what the MLP of that block wrote there before, (vector, d_model).
        losses: the last loss of each vector, in nats, (vector,).
        steps: gradient steps that each took, (vector,).
    """

    slots: list[VectorSlot]
    initial: Tensor
    delta: Tensor
    written: Tensor
    losses: Tensor
    steps: Tensor

    @property
    def wanted(self) -> Tensor:
        """Residual stream that makes the model say the new values, (vector, d_model)."""
        return self.initial + self.delta

    def of(self, request: int) -> TargetVectors:
        """What was found for one request, which shares no vector, as if it were the only one."""
        own = [slot for slot in self.slots if slot.request == request]
        rows = slice(own[0].vector, own[-1].vector + 1)
        return TargetVectors(
            [VectorSlot(slot.vector - rows.start, 0, slot.token) for slot in own], *(one[rows] for one in self._tensors)
        )

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.initial, self.delta, self.written, self.losses, self.steps


def vector_slots(target: EditableModel, requests: pd.DataFrame, place: EditSite, *, joint: bool) -> list[VectorSlot]:
    """Which vectors are needed, in their order.

    A subject's last token does not know what is asked after it: its key is the same for all requests about the subject,
    and one key can hold only one value, so ``joint`` requests about a subject share a vector. The last token before an
    answer tells one token of it: there, an answer of several tokens takes as many vectors, each at its own key.
    """
    if place.fact_token == "subject_last":
        owners = pd.factorize(requests["subject"])[0] if joint else range(len(requests))
        return sorted(VectorSlot(int(owner), request, None) for request, owner in enumerate(owners))
    answers = AnswerTokens(target.tokenizer)
    tokens = [
        (request, token)
        for request, one in enumerate(requests.itertuples())
        for token in range(len(answers.encode_after(one.prompt, one.target_new)))
    ]
    return [VectorSlot(vector, request, token) for vector, (request, token) in enumerate(tokens)]


def compute_target_vectors(
    target: EditableModel,
    requests: pd.DataFrame,
    place: EditSite,
    settings: TargetVectorSettings,
    *,
    apart: bool = False,
    shard: int = 0,
    shards: int = 1,
) -> TargetVectors:
    """Find the vectors of all requests, some hundred sequences at a time.

    The loss of a vector is the sum over its requests of the mean over contexts of -log p(new value) per token, plus
    ``kl`` times the mean over the subject's other prompts of KL(edited ‖ original), plus ``decay`` · (‖δ‖ / ‖h‖)². Adam
    steps δ in units of ‖h‖ / √d, after each step ‖δ‖ ≤ ``clamp`` · ‖h‖. h is the residual stream at the edited token of
    the bare prompt, or what the MLP adds to it there. In absolute units, Adam steps δ itself, and the last term is
    ``decay`` · ‖δ‖ / ‖h‖², as in ROME's and MEMIT's code.

    Args:
        target: the model; its weights stay as they are.
        requests: usable ones.
        place: the edited token; the vector is added after the last of the layers.
        settings: of the search.
        apart: as if each request were the only one: none shares a vector, and the others' old values are to stay too.
        shard: of the batches of vectors, only every so many-th, from this one on.
        shards: how many such shares there are. Their rows are those of the whole, to the bit; the slots are of the whole.
    """
    needed = vector_slots(target, requests, place, joint=settings.one_vector_per_subject and not apart)
    parts = [
        _optimise(target, requests, chunk, place, settings, apart)
        for start in range(0, needed[-1].vector + 1, settings.batch_size)[shard::shards]
        if (chunk := [slot for slot in needed if start <= slot.vector < start + settings.batch_size])
    ]
    if not parts:
        logging.warning("no vector is left for shard %d of %d; lower `shards`, or `values.batch`", shard, shards)
        parts = [tuple(torch.zeros(shape) for shape in [(0, target.parts.d_model)] * 3 + [(0,)] * 2)]
    found = TargetVectors(needed, *(torch.cat(column) for column in zip(*parts, strict=True)))
    longest = settings.clamp_norm_factor * (found.written if settings.norm_site == "mlp" else found.initial).norm(dim=1)
    logging.info(
        "target values of %d requests, %d vectors: loss %.3f after %.1f steps on average, %.0f %% at the clamp",
        len(requests), len(found.delta), found.losses.mean(), found.steps.double().mean(),
        100 * (found.delta.norm(dim=1) > 0.999 * longest).double().mean(),
    )  # fmt: skip
    return found


@dataclass
class _Sequences:
    """The sequences of some vectors: which vector is in each, what it counts in the loss, whether it is a bare prompt."""

    rows: list[EditSequence] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    bare: list[bool] = field(default_factory=list)

    def add(self, row: EditSequence, owner: int, weight: float, *, bare: bool = False) -> None:
        for column, value in zip(
            (self.rows, self.owner, self.weight, self.bare), (row, owner, weight, bare), strict=True
        ):
            column.append(value)


def _sequences(
    target: EditableModel,
    requests: pd.DataFrame,
    needed: Sequence[VectorSlot],
    place: EditSite,
    settings: TargetVectorSettings,
    apart: bool = False,
) -> _Sequences:
    found, edited = _Sequences(), set(requests["edit_id"])
    prefixes, first = ["", *target.contexts[: settings.n_context_templates]], needed[0].vector
    for slot in needed:
        one = requests.iloc[slot.request]
        for prefix in prefixes:
            text = f"{prefix} {one['prompt']}".strip()
            made = tokenize_prompt(target, place, text, one["subject"], one["target_new"], slot.token)
            found.add(made, slot.vector - first, 1 / len(prefixes), bare=not prefix)
    if settings.kl_factor:
        for vector, request in {slot.vector - first: slot.request for slot in needed}.items():
            one = requests.iloc[request]
            kept = _kl_prompts_of(one, {one["edit_id"]} if apart else edited, settings)
            for prompt in kept:
                found.add(
                    tokenize_prompt(target, place, prompt, one["subject"]), vector, settings.kl_factor / len(kept)
                )
    return found


def _kl_prompts_of(request: pd.Series, edited: set[str], settings: TargetVectorSettings) -> list[str]:
    """Prompts whose answers are to stay."""
    others = zip(request["related_fact_ids"], request["related_prompts"], strict=True)
    kept = [prompt for other, prompt in others if other not in edited] if settings.kl_prompts == "related" else []
    return kept or [_ESSENCE.format(request["subject"])]


def _optimise(
    target: EditableModel,
    requests: pd.DataFrame,
    needed: Sequence[VectorSlot],
    place: EditSite,
    settings: TargetVectorSettings,
    apart: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    layer = target.layer(place.layers[-1])
    made = _sequences(target, requests, needed, place, settings, apart)
    vectors = needed[-1].vector - needed[0].vector + 1
    fill = target.tokenizer.pad_token_id or 0
    suffixes = Suffixes(target.model, [one.ids for one in made.rows], [one.place for one in made.rows], layer, fill)
    device = suffixes.hidden.device
    owner, bare = torch.tensor(made.owner, device=device), torch.tensor(made.bare, device=device)
    # Where the answers are: sequence, column, token, and what each counts in its group's loss.
    asked = [
        (number, one.asked - one.place + step, token, made.weight[number] / len(one.target))
        for number, one in enumerate(made.rows)
        for step, token in enumerate(one.target)
    ]
    kept = [
        # ROME's essence prompt is compared at the subject itself, others where their answer begins.
        (number, 0 if settings.kl_prompts == "essence" else one.asked - one.place, 0, made.weight[number])
        for number, one in enumerate(made.rows)
        if not one.target
    ]
    initial, written = (
        _mean_per_vector(stream[bare], owner[bare], vectors) for stream in (suffixes.hidden[:, 0], suffixes.written)
    )
    length = (written if settings.norm_site == "mlp" else initial).norm(dim=1, keepdim=True)
    # δ is searched in units of ‖h‖ / √d, or as it is.
    relative = settings.units == "relative"
    scale = length / initial.shape[1] ** 0.5 if relative else torch.ones_like(length)
    longest = settings.clamp_norm_factor * length / scale
    delta, first, second = (torch.zeros_like(initial) for _ in range(3))
    losses, steps, right = (
        torch.zeros(vectors, dtype=kind, device=device) for kind in (torch.float, torch.long, torch.long)
    )
    limit = settings.v_loss_threshold * torch.bincount(owner[bare], minlength=vectors)
    work = _ActiveVectors(suffixes, owner, asked, kept, torch.arange(vectors, device=device))
    for step in range(settings.v_num_grad_steps):
        active = work.vectors
        free = delta[active].requires_grad_()
        with freeze_weights(target.model):
            loss, said = work.loss(free * scale[active])
        loss = loss + settings.v_weight_decay * (
            (free**2).mean(1) if relative else free.norm(dim=1) / length[active, 0] ** 2
        )
        losses[active], steps[active] = loss.detach(), step
        right[active] += said
        going = loss.detach() >= limit[active]
        if settings.argmax_patience is not None:
            going &= right[active] < settings.argmax_patience
        if step == settings.v_num_grad_steps - 1 or not going.any():
            break
        (gradient,) = torch.autograd.grad(loss.sum(), free)
        if not going.all():
            work, gradient = work.take(going), gradient[going]
        delta[work.vectors] = _adam(gradient, delta, first, second, work.vectors, step + 1, settings.v_lr)
        norm = delta.norm(dim=1, keepdim=True)
        delta = delta * (longest / norm.clamp(min=longest))
    return initial, delta * scale, written, losses, steps


def _adam(
    gradient: Tensor, value: Tensor, first: Tensor, second: Tensor, rows: Tensor, step: int, rate: float
) -> Tensor:
    """One step of Adam (Kingma and Ba 2015) for some rows; both moments change in place."""
    first[rows] = 0.9 * first[rows] + 0.1 * gradient
    second[rows] = 0.999 * second[rows] + 0.001 * gradient**2
    mean, variance = first[rows] / (1 - 0.9**step), second[rows] / (1 - 0.999**step)
    return value[rows] - rate * mean / (variance.sqrt() + 1e-8)


class _ActiveVectors:
    """The sequences of vectors that are not done, and their losses."""

    def __init__(self, suffixes: Suffixes, owner: Tensor, asked: list, kept: list, vectors: Tensor) -> None:
        device = owner.device
        self.suffixes, self.owner, self.vectors = suffixes, owner, vectors
        self.row, self.column, self.token = (
            torch.tensor([place[k] for place in asked + kept], device=device, dtype=torch.long) for k in range(3)
        )
        self.weight = torch.tensor([place[3] for place in asked + kept], device=device)
        self.answers = torch.tensor([True] * len(asked) + [False] * len(kept), device=device)
        with torch.no_grad():
            still = suffixes.final[self.row[~self.answers], self.column[~self.answers]]
            self.before = unembed(suffixes.parts, still).float().log_softmax(-1)

    def loss(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Of each vector with δ, (vector, d_model), added at the place; and whether all its answers are the likeliest."""
        hidden = self.suffixes.hidden
        changed = torch.cat([hidden[:, :1] + delta[self.owner][:, None], hidden[:, 1:]], 1)
        normed = self.suffixes.rerun(changed, self.row, self.column)
        log_p = unembed(self.suffixes.parts, normed).float().log_softmax(-1)
        said = -log_p[self.answers].gather(1, self.token[self.answers, None])[:, 0]
        now = log_p[~self.answers]
        drift = (now.exp() * (now - self.before)).sum(1)
        parts, owner = torch.cat([said, drift]) * self.weight, self.owner[self.row]
        missed = (log_p[self.answers].argmax(-1) != self.token[self.answers]).long()
        wrong = torch.zeros(len(delta), dtype=torch.long, device=parts.device)
        wrong = wrong.index_add(0, owner[self.answers], missed)
        return torch.zeros(len(delta), device=parts.device).index_add(0, owner, parts), wrong == 0

    def take(self, going: Tensor) -> _ActiveVectors:
        """Only the vectors that are not done."""
        number = going.cumsum(0) - 1
        rows = going[self.owner]
        places, new_row = rows[self.row], rows.cumsum(0) - 1
        taken = object.__new__(_ActiveVectors)
        taken.suffixes, taken.owner = self.suffixes.take(rows), number[self.owner[rows]]
        taken.vectors = self.vectors[going]
        taken.row, taken.column, taken.token = new_row[self.row[places]], self.column[places], self.token[places]
        taken.weight, taken.answers = self.weight[places], self.answers[places]
        taken.before = self.before[places[~self.answers]]
        return taken


def _mean_per_vector(values: Tensor, owner: Tensor, vectors: int) -> Tensor:
    """Mean of the rows of each vector."""
    sums = torch.zeros(vectors, values.shape[1], device=values.device, dtype=values.dtype).index_add(0, owner, values)
    return sums / torch.bincount(owner, minlength=vectors)[:, None]


def compute_keys(
    target: EditableModel,
    requests: pd.DataFrame,
    needed: Sequence[VectorSlot],
    place: EditSite,
    layer: int,
    number: int,
    *,
    halves: bool = True,
) -> Tensor:
    """What a down-projection reads where each vector is written, (d_mlp, vector).

    Half is the bare prompt's key, half the mean over contexts (MEMIT), or, without ``halves``, the mean over the bare
    prompt and contexts (ROME); ``number`` contexts at most; the mean over the requests that share a vector.
    """
    module = target.parts.blocks[layer].mlp_out
    read = [_read_hidden(target, requests, needed, place, module, prefix) for prefix in ("", *target.contexts[:number])]
    if halves and len(read) > 1:
        return ((read[0] + torch.stack(read[1:]).mean(0)) / 2).T
    return torch.stack(read).mean(0).T


def compute_hidden_states(
    target: EditableModel, requests: pd.DataFrame, needed: Sequence[VectorSlot], place: EditSite, layer: int
) -> Tensor:
    """The residual stream after a block where each vector is written, in bare prompts, (vector, d_model)."""
    return _read_hidden(target, requests, needed, place, target.parts.blocks[layer].module, "", inputs=False)


@torch.no_grad()
def _read_hidden(
    target: EditableModel, requests: pd.DataFrame, needed: Sequence[VectorSlot], place: EditSite, module: nn.Module, prefix: str,
    *, inputs: bool = True,
) -> Tensor:  # fmt: skip
    """What a module takes in or returns at the edited token of every slot, as means over those of a vector."""
    made = []
    for slot in needed:
        one = requests.iloc[slot.request]
        text = f"{prefix} {one['prompt']}".strip()
        made.append(tokenize_prompt(target, place, text, one["subject"], one["target_new"], slot.token))
    fill, device = target.tokenizer.pad_token_id or 0, next(target.model.parameters()).device
    width = max(one.place for one in made) + 1
    # What comes after the edited token cannot change what is read there.
    ids = torch.full((len(made), width), fill)
    for number, one in enumerate(made):
        ids[number, : one.place + 1] = torch.tensor(one.ids[: one.place + 1])
    places = torch.tensor([one.place for one in made])
    mask = torch.arange(width) <= places[:, None]
    with capture({"here": module}, inputs=inputs) as found, stop_after(module):
        target.model.base_model(ids.to(device), attention_mask=mask.long().to(device), use_cache=False)
    owner = torch.tensor([slot.vector for slot in needed], device=device)
    return _mean_per_vector(found["here"][torch.arange(len(made)), places], owner, needed[-1].vector + 1)


_NAMES = ("initial", "delta", "written", "losses", "steps")


def save_target_vectors(
    target: EditableModel,
    requests: pd.DataFrame,
    place: EditSite,
    settings: TargetVectorSettings,
    schedule: EditSchedule,
    path: str | Path,
    *,
    model: str,
    shard: int = 0,
    shards: int = 1,
) -> None:
    """Write the target values of a shard, with all on which they depend.

    Args:
        target: the model.
        requests: validated; those are sought that the schedule takes.
        place: as for ``target_values``, as are ``settings``, ``shard`` and ``shards``.
        settings: see there.
        schedule: single edits are found ``apart``.
        path: of the file.
        model: digest of the weights.
        shard: see there.
        shards: see there.
    """
    requests, apart = scheduled_requests(requests, schedule), schedule.kind == "single"
    found = compute_target_vectors(target, requests, place, settings, apart=apart, shard=shard, shards=shards)
    tensors = {name: getattr(found, name).cpu().contiguous() for name in _NAMES}
    about = _provenance(target, requests, place, settings, apart, model) | {"shards": shards}
    save_file(tensors, path, {"about": json.dumps(about, sort_keys=True)})


def load_target_vectors(
    target: EditableModel, requests: pd.DataFrame, editor: ClosedFormEditor, paths: Sequence[str | Path], *, model: str
) -> EditableModel:
    """The model with the target values of an editor's requests, from all shards in their order.

    Raises:
        EditError: they were found for something else than the editor seeks.
    """
    place, settings, apart = editor.site, editor.values, editor.schedule.kind == "single"
    requests, parts = scheduled_requests(requests, editor.schedule), []
    about = _provenance(target, requests, place, settings, apart, model) | {"shards": len(paths)}
    for path in paths:
        with safe_open(path, "pt", device=str(target.model.device)) as file:
            kept = json.loads(file.metadata()["about"])
            if differing := sorted(key for key in about if kept[key] != about[key]):
                raise EditError(f"{path} was found for other {', '.join(differing)}; delete it and run again")
            parts.append([file.get_tensor(name).split(settings.batch_size) for name in _NAMES])
    needed = vector_slots(target, requests, place, joint=settings.one_vector_per_subject and not apart)
    # Batches were dealt to the shards in turn.
    batches = range(-(-(needed[-1].vector + 1) // settings.batch_size))
    columns = ([parts[n % len(parts)][column][n // len(parts)] for n in batches] for column in range(len(_NAMES)))
    return replace(target, target_vectors=TargetVectors(needed, *map(torch.cat, columns)))


def _provenance(
    target: EditableModel,
    requests: pd.DataFrame,
    place: EditSite,
    settings: TargetVectorSettings,
    apart: bool,
    model: str,
) -> dict[str, Any]:
    columns = ["edit_id", "subject", "prompt", "target_new", "related_fact_ids", "related_prompts"]
    rows = requests[columns].to_json(orient="values")
    return {
        "model": model,
        "requests": hashlib.sha256(rows.encode()).hexdigest(),
        "contexts": hashlib.sha256(json.dumps(target.contexts[: settings.n_context_templates]).encode()).hexdigest(),
        "site": [place.fact_token, target.layer(place.layers[-1])],
        "settings": settings.model_dump(mode="json"),
        "apart": apart,
    }
