"""A model that is being edited: where requests are in its tokens, and how its weights change and come back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from factlife.config.editing import EditSite
from factlife.editing.requests import EditError
from factlife.models.anatomy import Anatomy, get_anatomy
from factlife.recall.score import AnswerTokens

Deltas = dict[str, Tensor]


@dataclass(frozen=True)
class EditableModel:
    """A model, and what editors know beside it.

    Attributes:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer, a fast one.
        contexts: texts that may stand before a prompt.
        covariance: second moment of what each down-projection reads, float64, (d_mlp, d_mlp), by block.
        hypernetwork: MEND's, trained for this model.
        target_vectors: target values of the requests that are to be written; where there are none, editors find them.
    """

    model: Any
    tokenizer: Any
    contexts: Sequence[str] = ()
    covariance: Mapping[int, Tensor] | None = None
    hypernetwork: Any = None
    target_vectors: Any = None

    @property
    def parts(self) -> Anatomy:
        """Its anatomy."""
        return get_anatomy(self.model)

    def layer(self, number: int) -> int:
        """A block's number, counted from the front.

        Raises:
            EditError: there is no such block.
        """
        layers = len(self.parts.blocks)
        if not -layers <= number < layers:
            raise EditError(f"layer {number} does not exist: the model has blocks 0 to {layers - 1}; change `layers`")
        return number % layers

    def key_covariance(self, layer: int) -> Tensor:
        """The second moment of one block.

        Raises:
            EditError: it was not measured.
        """
        if self.covariance is None or layer not in self.covariance:
            raise EditError(f"the second moment of block {layer} was not measured; measure it, or change `layers`")
        return self.covariance[layer]

    def weight_name(self, layer: int) -> str:
        """Name of a block's down-projection among the parameters."""
        weight = self.parts.blocks[layer].mlp_out.weight
        return next(name for name, parameter in self.model.named_parameters() if parameter is weight)

    def delta(self, layer: int, change: Tensor) -> Deltas:
        """A change of a block's down-projection, (d_model, d_mlp), as the module keeps its weight."""
        return {self.weight_name(layer): to_weight_layout(self.parts.blocks[layer].mlp_out, change)}


def to_weight_layout(module: nn.Module, change: Tensor) -> Tensor:
    """A change of a linear map, (out, in), the way round and in the type in which the module keeps its weight."""
    return (change.T if isinstance(module, Conv1D) else change).to(module.weight)


@contextmanager
def apply_deltas(model: Any, deltas: Deltas) -> Iterator[None]:
    """The model with changed weights inside the context, and with the very same bits as before after it."""
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].detach().clone() for name in deltas}
    try:
        add_deltas(model, deltas)
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                parameters[name].copy_(weight)


@contextmanager
def freeze_weights(model: Any) -> Iterator[None]:
    """A model whose weights need no gradient inside the context: passes keep nothing for one, which saves memory."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def add_deltas(model: Any, deltas: Deltas) -> None:
    """Add changes to a model's weights.

    Raises:
        EditError: a change is not finite.
    """
    parameters = dict(model.named_parameters())
    for name, change in deltas.items():
        if not torch.isfinite(change).all():
            raise EditError(f"the change of {name} is not finite; nothing was written. Lower `share` or `values.rate`")
        with torch.no_grad():
            parameters[name] += change.to(parameters[name])


def merge_deltas(*changes: Deltas) -> Deltas:
    """The sum of changes."""
    total: Deltas = {}
    for deltas in changes:
        for name, change in deltas.items():
            total[name] = total[name] + change if name in total else change
    return total


@dataclass(frozen=True)
class EditSequence:
    """A sequence that tells something about a request.

    Attributes:
        ids: its tokens; of a target all but the last.
        place: index of the edited token.
        asked: index of the token after which the answer begins.
        target: the answer's ids; none where only the distribution counts.
    """

    ids: list[int]
    place: int
    asked: int
    target: list[int]


def tokenize_prompt(
    target: EditableModel,
    place: EditSite,
    text: str,
    subject: str,
    answer: str = "",
    token: int | None = None,
    *,
    end: bool = False,
) -> EditSequence:
    """A prompt, and what is to follow, as tokens.

    Args:
        target: whose tokenizer writes it.
        place: which token is edited.
        text: the prompt.
        subject: in the prompt, at its last occurrence.
        answer: what is to follow; empty for nothing.
        token: only this one of the answer's tokens, after those before it; the prompt ends there.
        end: the answer ends with the end-of-text token.

    Raises:
        EditError: the subject is not in the prompt, or the answer cannot be written after it.
    """
    start = text.rfind(subject)
    if start < 0:
        raise EditError(f"the subject {subject!r} is not in the prompt {text!r}")
    encoded = target.tokenizer(text)
    ids, wanted = encoded["input_ids"], AnswerTokens(target.tokenizer).encode_after(text, answer) if answer else []
    if answer and not wanted:
        raise EditError(f"the tokenizer cannot write {answer!r} after {text!r}")
    if end:
        if target.tokenizer.eos_token_id is None:
            raise EditError("the tokenizer has no end-of-text token for new values to end with; set `end: false`")
        wanted = [*wanted, target.tokenizer.eos_token_id]
    if token is not None:
        ids, wanted = [*ids, *wanted[:token]], wanted[token : token + 1]
    last = len(ids) - 1
    edited = encoded.char_to_token(start + len(subject) - 1) if place.fact_token == "subject_last" else last
    return EditSequence([*ids, *wanted[:-1]], edited, last, wanted)


def sample_context_templates(
    documents: pd.DataFrame, subjects: Sequence[str], *, number: int = 16, words: int = 12, seed: int = 0
) -> list[str]:
    """First sentences of random documents that mention none of the subjects, whole ones before those that are cut.

    Args:
        documents: a corpus.
        subjects: names.
        number: of sentences, at most.
        words: longest sentence; longer ones are cut there and end with a full stop all the same.
        seed: of the choice.
    """
    whole: list[str] = []
    cut: list[str] = []
    texts = documents["text"].tolist()
    for text in random.Random(f"contexts {seed}").sample(texts, min(len(texts), 100 * number)):
        sentence = text.partition(". ")[0].split()
        short = " ".join(sentence[:words]).rstrip(" .,;:?")
        if len(sentence) > 3 and not any(subject in short for subject in subjects):
            stop = " ." if " . " in text or text.endswith(" .") else "."
            (whole if len(sentence) <= words else cut).append(short + stop)
    return (whole + cut)[:number]
