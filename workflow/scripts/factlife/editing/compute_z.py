"""Target vectors (MEMIT's ``compute_z``): added to the residual stream at the edited token, they make a model predict new values.

All requests are optimised at once: each has a row of one matrix, and the rows are independent (ROME, Meng et al. 2022,
eq. 4; MEMIT, Meng et al. 2023, eq. 16).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from factlife.config.editing import ClosedFormEditor, EditSchedule, EditSite, TargetVectorSettings
from factlife.editing.compute_ks import VectorSlot, mean_per_vector, vector_slots
from factlife.editing.editable import EditableModel, EditSequence, freeze_weights, tokenize_prompt
from factlife.editing.requests import EditError, scheduled_requests
from factlife.editing.suffix import Suffixes
from factlife.models.anatomy import unembed

_ESSENCE = "{} is a"


@dataclass(frozen=True)
class TargetVectors:
    """Optimised target vectors.

    Attributes:
        slots: the requests of each vector.
        initial: h, the residual stream after the last edited block, (vector, d_model).
        delta: δ, added to h to make the model predict the new values, (vector, d_model).
        mlp_output: output of that block's MLP at the edited token, before the edit, (vector, d_model).
        losses: final loss of each vector in nats, (vector,).
        steps: gradient steps of each vector, (vector,).
    """

    slots: list[VectorSlot]
    initial: Tensor
    delta: Tensor
    mlp_output: Tensor
    losses: Tensor
    steps: Tensor

    @property
    def z(self) -> Tensor:
        """Residual stream that makes the model predict the new values, h + δ, (vector, d_model)."""
        return self.initial + self.delta

    def of_request(self, row: int) -> TargetVectors:
        """The vectors of one request, which shares none, as if it were the only request."""
        slots = [slot for slot in self.slots if slot.request == row]
        rows = slice(slots[0].vector, slots[-1].vector + 1)
        return TargetVectors(
            [VectorSlot(slot.vector - rows.start, 0, slot.token) for slot in slots],
            *(tensor[rows] for tensor in self._tensors),
        )

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.initial, self.delta, self.mlp_output, self.losses, self.steps


def compute_target_vectors(
    target: EditableModel,
    requests: pd.DataFrame,
    site: EditSite,
    settings: TargetVectorSettings,
    *,
    independent: bool = False,
    shard: int = 0,
    shards: int = 1,
) -> TargetVectors:
    """Optimise the vectors of all requests, a few hundred sequences at a time.

    The loss of a vector is the sum over its requests of the mean over contexts of -log p(new value) per token, plus
    ``kl_factor`` times the mean over the subject's other prompts of KL(edited ‖ original), plus ``v_weight_decay`` ·
    (‖δ‖ / ‖h‖)². Adam steps δ in units of ‖h‖ / √d, and after each step ‖δ‖ ≤ ``clamp_norm_factor`` · ‖h‖. h is the residual
    stream at the edited token of the bare prompt, or the output of the MLP there. In published units, Adam steps δ itself,
    and the last term is ``v_weight_decay`` · ‖δ‖ / ‖h‖², as in the code of ROME and MEMIT.

    Args:
        target: the model; its weights do not change.
        requests: usable ones.
        site: the edited token; the vector is added after the last of the layers.
        settings: of the optimisation.
        independent: treat each request as if it were the only one: no vectors are shared, and the old values of other
            requests are preserved, too.
        shard: index of the shard; batches of vectors are dealt to the shards in turn.
        shards: number of shards. The rows of a shard equal those of the whole bit by bit; the slots are those of the whole.
    """
    share_vectors = settings.one_vector_per_subject and not independent
    slots = vector_slots(target, requests, site, one_vector_per_subject=share_vectors)
    parts = [
        _optimise(target, requests, batch, site, settings, independent)
        for start in range(0, slots[-1].vector + 1, settings.batch_size)[shard::shards]
        if (batch := [slot for slot in slots if start <= slot.vector < start + settings.batch_size])
    ]
    if not parts:
        logging.warning("no vector is left for shard %d of %d; lower `shards`, or `values.batch_size`", shard, shards)
        parts = [tuple(torch.zeros(shape) for shape in [(0, target.parts.d_model)] * 3 + [(0,)] * 2)]
    vectors = TargetVectors(slots, *(torch.cat(column) for column in zip(*parts, strict=True)))
    reference = vectors.mlp_output if settings.norm_site == "mlp" else vectors.initial
    max_norm = settings.clamp_norm_factor * reference.norm(dim=1)
    logging.info(
        "target vectors of %d requests, %d vectors: loss %.3f after %.1f steps on average, %.0f %% at the clamp",
        len(requests), len(vectors.delta), vectors.losses.mean(), vectors.steps.double().mean(),
        100 * (vectors.delta.norm(dim=1) > 0.999 * max_norm).double().mean(),
    )  # fmt: skip
    return vectors


@dataclass
class LossSequences:
    """The sequences whose losses optimise some vectors.

    Attributes:
        sequences: the tokenized prompts, with their answers or, for the KL term, without.
        vectors: index of the vector that is added to each sequence.
        weights: weight of each sequence in the loss.
        is_bare: whether the sequence is a bare prompt.
    """

    sequences: list[EditSequence] = field(default_factory=list)
    vectors: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    is_bare: list[bool] = field(default_factory=list)

    def add(self, sequence: EditSequence, vector: int, weight: float, *, is_bare: bool = False) -> None:
        """Append one sequence."""
        self.sequences.append(sequence)
        self.vectors.append(vector)
        self.weights.append(weight)
        self.is_bare.append(is_bare)


def loss_sequences(
    target: EditableModel,
    requests: pd.DataFrame,
    slots: Sequence[VectorSlot],
    site: EditSite,
    settings: TargetVectorSettings,
    independent: bool = False,
) -> LossSequences:
    """The sequences of the rewriting loss and of the KL term, with vectors counted from the first slot."""
    sequences, edit_ids = LossSequences(), set(requests["edit_id"])
    prefixes, first = ["", *target.contexts[: settings.n_context_templates]], slots[0].vector
    for slot in slots:
        request = requests.iloc[slot.request]
        for prefix in prefixes:
            prompt = f"{prefix} {request['prompt']}".strip()
            sequence = tokenize_prompt(target, site, prompt, request["subject"], request["target_new"], slot.token)
            sequences.add(sequence, slot.vector - first, 1 / len(prefixes), is_bare=not prefix)
    if settings.kl_factor:
        for vector, row in {slot.vector - first: slot.request for slot in slots}.items():
            request = requests.iloc[row]
            prompts = _kl_prompts(request, {request["edit_id"]} if independent else edit_ids, settings)
            for prompt in prompts:
                sequence = tokenize_prompt(target, site, prompt, request["subject"])
                sequences.add(sequence, vector, settings.kl_factor / len(prompts))
    return sequences


def _kl_prompts(request: pd.Series, edit_ids: set[str], settings: TargetVectorSettings) -> list[str]:
    """Prompts whose predictions are preserved."""
    related = zip(request["related_fact_ids"], request["related_prompts"], strict=True)
    prompts = []
    if settings.kl_prompts == "related":
        prompts = [prompt for fact, prompt in related if fact not in edit_ids]
    return prompts or [_ESSENCE.format(request["subject"])]


def _optimise(
    target: EditableModel,
    requests: pd.DataFrame,
    slots: Sequence[VectorSlot],
    site: EditSite,
    settings: TargetVectorSettings,
    independent: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    layer = target.layer_index(site.layers[-1])
    inputs = loss_sequences(target, requests, slots, site, settings, independent)
    sequences = inputs.sequences
    n_vectors = slots[-1].vector - slots[0].vector + 1
    suffixes = Suffixes(
        target.model,
        [sequence.input_ids for sequence in sequences],
        [sequence.edit_position for sequence in sequences],
        layer,
        target.tokenizer.pad_token_id or 0,
    )
    device = suffixes.hidden.device
    vector_of, is_bare = torch.tensor(inputs.vectors, device=device), torch.tensor(inputs.is_bare, device=device)
    # Predicted positions: sequence, column, token, and weight in the loss.
    answer_positions = [
        (row, sequence.prompt_end - sequence.edit_position + i, token, inputs.weights[row] / len(sequence.target_ids))
        for row, sequence in enumerate(sequences)
        for i, token in enumerate(sequence.target_ids)
    ]
    kl_positions = [
        # ROME compares predictions of the essence prompt at the subject itself; others are compared before their answer.
        (
            row,
            0 if settings.kl_prompts == "essence" else sequence.prompt_end - sequence.edit_position,
            0,
            inputs.weights[row],
        )
        for row, sequence in enumerate(sequences)
        if not sequence.target_ids
    ]
    initial, mlp_output = (
        mean_per_vector(hidden[is_bare], vector_of[is_bare], n_vectors)
        for hidden in (suffixes.hidden[:, 0], suffixes.mlp_output)
    )
    norm = (mlp_output if settings.norm_site == "mlp" else initial).norm(dim=1, keepdim=True)
    # δ is optimised in units of ‖h‖ / √d, or as it is.
    relative = settings.units == "relative"
    scale = norm / initial.shape[1] ** 0.5 if relative else torch.ones_like(norm)
    max_norm = settings.clamp_norm_factor * norm / scale
    delta, first_moment, second_moment = (torch.zeros_like(initial) for _ in range(3))
    losses, steps, n_correct_steps = (
        torch.zeros(n_vectors, dtype=dtype, device=device) for dtype in (torch.float, torch.long, torch.long)
    )
    loss_threshold = settings.v_loss_threshold * torch.bincount(vector_of[is_bare], minlength=n_vectors)
    active = _ActiveVectors(suffixes, vector_of, answer_positions, kl_positions, torch.arange(n_vectors, device=device))
    for step in range(settings.v_num_grad_steps):
        rows = active.vectors
        v = delta[rows].requires_grad_()
        with freeze_weights(target.model):
            loss, is_correct = active.loss(v * scale[rows])
        penalty = (v**2).mean(1) if relative else v.norm(dim=1) / norm[rows, 0] ** 2
        loss = loss + settings.v_weight_decay * penalty
        losses[rows], steps[rows] = loss.detach(), step
        n_correct_steps[rows] += is_correct
        active_mask = loss.detach() >= loss_threshold[rows]
        if settings.argmax_patience is not None:
            active_mask &= n_correct_steps[rows] < settings.argmax_patience
        if step == settings.v_num_grad_steps - 1 or not active_mask.any():
            break
        (gradient,) = torch.autograd.grad(loss.sum(), v)
        if not active_mask.all():
            active, gradient = active.select(active_mask), gradient[active_mask]
        delta[active.vectors] = _adam_step(
            gradient, delta, first_moment, second_moment, active.vectors, step + 1, settings.v_lr
        )
        delta_norm = delta.norm(dim=1, keepdim=True)
        delta = delta * (max_norm / delta_norm.clamp(min=max_norm))
    return initial, delta * scale, mlp_output, losses, steps


def _adam_step(
    gradient: Tensor, value: Tensor, first_moment: Tensor, second_moment: Tensor, rows: Tensor, step: int, lr: float
) -> Tensor:
    """One step of Adam (Kingma and Ba 2015) for some rows; both moments change in place."""
    first_moment[rows] = 0.9 * first_moment[rows] + 0.1 * gradient
    second_moment[rows] = 0.999 * second_moment[rows] + 0.001 * gradient**2
    mean, variance = first_moment[rows] / (1 - 0.9**step), second_moment[rows] / (1 - 0.999**step)
    return value[rows] - lr * mean / (variance.sqrt() + 1e-8)


class _ActiveVectors:
    """The vectors that are still optimised, with their sequences and losses."""

    def __init__(
        self, suffixes: Suffixes, vector_of: Tensor, answer_positions: list, kl_positions: list, vectors: Tensor
    ) -> None:
        device = vector_of.device
        self.suffixes, self.vector_of, self.vectors = suffixes, vector_of, vectors
        positions = answer_positions + kl_positions
        self.row, self.column, self.token = (
            torch.tensor([position[k] for position in positions], device=device, dtype=torch.long) for k in range(3)
        )
        self.weight = torch.tensor([position[3] for position in positions], device=device)
        self.is_answer = torch.tensor([True] * len(answer_positions) + [False] * len(kl_positions), device=device)
        with torch.no_grad():
            final = suffixes.final[self.row[~self.is_answer], self.column[~self.is_answer]]
            self.original = unembed(suffixes.parts, final).float().log_softmax(-1)

    def loss(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of each vector if δ, (vector, d_model), is added at the edited token, and whether its answers are the argmax."""
        hidden = self.suffixes.hidden
        edited = torch.cat([hidden[:, :1] + delta[self.vector_of][:, None], hidden[:, 1:]], 1)
        final = self.suffixes.rerun(edited, self.row, self.column)
        log_probs = unembed(self.suffixes.parts, final).float().log_softmax(-1)
        nll = -log_probs[self.is_answer].gather(1, self.token[self.is_answer, None])[:, 0]
        preserved = log_probs[~self.is_answer]
        kl = (preserved.exp() * (preserved - self.original)).sum(1)
        terms, vectors = torch.cat([nll, kl]) * self.weight, self.vector_of[self.row]
        is_wrong = (log_probs[self.is_answer].argmax(-1) != self.token[self.is_answer]).long()
        n_wrong = torch.zeros(len(delta), dtype=torch.long, device=terms.device)
        n_wrong = n_wrong.index_add(0, vectors[self.is_answer], is_wrong)
        return torch.zeros(len(delta), device=terms.device).index_add(0, vectors, terms), n_wrong == 0

    def select(self, mask: Tensor) -> _ActiveVectors:
        """A subset of the vectors."""
        new_vector = mask.cumsum(0) - 1
        rows = mask[self.vector_of]
        positions, new_row = rows[self.row], rows.cumsum(0) - 1
        subset = object.__new__(_ActiveVectors)
        subset.suffixes, subset.vector_of = self.suffixes.select(rows), new_vector[self.vector_of[rows]]
        subset.vectors = self.vectors[mask]
        subset.row, subset.column = new_row[self.row[positions]], self.column[positions]
        subset.token = self.token[positions]
        subset.weight, subset.is_answer = self.weight[positions], self.is_answer[positions]
        subset.original = self.original[positions[~self.is_answer]]
        return subset


_TENSORS = ("initial", "delta", "mlp_output", "losses", "steps")


def save_target_vectors(
    target: EditableModel,
    requests: pd.DataFrame,
    site: EditSite,
    settings: TargetVectorSettings,
    schedule: EditSchedule,
    path: str | Path,
    *,
    model: str,
    shard: int = 0,
    shards: int = 1,
) -> None:
    """Compute the target vectors of a shard, and write them with the digests of their inputs.

    Args:
        target: the model.
        requests: validated; the schedule says how many are used.
        site: the edited token and layers.
        settings: of the optimisation.
        schedule: a `single` schedule makes requests independent.
        path: of the file.
        model: digest of the weights.
        shard: index of the shard.
        shards: number of shards.
    """
    requests, independent = scheduled_requests(requests, schedule), schedule.kind == "single"
    vectors = compute_target_vectors(
        target, requests, site, settings, independent=independent, shard=shard, shards=shards
    )
    tensors = {name: getattr(vectors, name).cpu().contiguous() for name in _TENSORS}
    about = _provenance(target, requests, site, settings, independent, model) | {"shards": shards}
    save_file(tensors, path, {"about": json.dumps(about, sort_keys=True)})


def load_target_vectors(
    target: EditableModel, requests: pd.DataFrame, editor: ClosedFormEditor, paths: Sequence[str | Path], *, model: str
) -> EditableModel:
    """The model with the target vectors of an editor's requests, read from all shards in their order.

    Raises:
        EditError: the vectors were computed from other inputs.
    """
    site, settings, independent = editor.site, editor.values, editor.schedule.kind == "single"
    requests, parts = scheduled_requests(requests, editor.schedule), []
    expected = _provenance(target, requests, site, settings, independent, model) | {"shards": len(paths)}
    for path in paths:
        with safe_open(path, "pt", device=str(target.model.device)) as file:
            about = json.loads(file.metadata()["about"])
            if differing := sorted(key for key in expected if about[key] != expected[key]):
                raise EditError(f"{path} was computed for other {', '.join(differing)}; delete it and run again")
            parts.append([file.get_tensor(name).split(settings.batch_size) for name in _TENSORS])
    share_vectors = settings.one_vector_per_subject and not independent
    slots = vector_slots(target, requests, site, one_vector_per_subject=share_vectors)
    # Batches were dealt to the shards in turn.
    batches = range(-(-(slots[-1].vector + 1) // settings.batch_size))
    columns = ([parts[n % len(parts)][column][n // len(parts)] for n in batches] for column in range(len(_TENSORS)))
    return replace(target, target_vectors=TargetVectors(slots, *map(torch.cat, columns)))


def _provenance(
    target: EditableModel,
    requests: pd.DataFrame,
    site: EditSite,
    settings: TargetVectorSettings,
    independent: bool,
    model: str,
) -> dict[str, Any]:
    columns = ["edit_id", "subject", "prompt", "target_new", "related_fact_ids", "related_prompts"]
    rows = requests[columns].to_json(orient="values")
    contexts = json.dumps(target.contexts[: settings.n_context_templates])
    return {
        "model": model,
        "requests": hashlib.sha256(rows.encode()).hexdigest(),
        "contexts": hashlib.sha256(contexts.encode()).hexdigest(),
        "site": [site.fact_token, target.layer_index(site.layers[-1])],
        "settings": settings.model_dump(mode="json"),
        "independent": independent,
    }
