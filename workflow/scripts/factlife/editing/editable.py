"""The model to edit: token positions of its requests, and reversible changes of its weights."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from factlife.config.editing import EditSite
from factlife.editing.requests import EditError
from factlife.models.anatomy import Anatomy, get_anatomy
from factlife.recall.score import AnswerTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Deltas = dict[str, Tensor]


@dataclass(frozen=True)
class EditableModel:
    """A model with everything that editors need.

    Attributes:
        model: a causal language model in eval mode.
        tokenizer: its fast tokenizer.
        contexts: context templates, which may precede a prompt.
        covariance: key covariance C of each block's down-projection, float64, (d_mlp, d_mlp), by block.
        hypernetwork: MEND's hypernetwork, trained for this model.
        target_vectors: precomputed target vectors of the requests; if None, editors compute them.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    contexts: Sequence[str] = ()
    covariance: Mapping[int, Tensor] | None = None
    hypernetwork: Any = None
    target_vectors: Any = None

    @property
    def parts(self) -> Anatomy:
        """The model's anatomy."""
        return get_anatomy(self.model)

    def layer_index(self, layer: int) -> int:
        """Index of a block, counted from the front.

        Raises:
            EditError: there is no such block.
        """
        n_layers = len(self.parts.blocks)
        if not -n_layers <= layer < n_layers:
            raise EditError(f"layer {layer} does not exist: the model has blocks 0 to {n_layers - 1}; change `layers`")
        return layer % n_layers

    def key_covariance(self, layer: int) -> Tensor:
        """The key covariance of one block.

        Raises:
            EditError: it was not computed.
        """
        if self.covariance is None or layer not in self.covariance:
            raise EditError(f"the key covariance of block {layer} was not computed; compute it, or change `layers`")
        return self.covariance[layer]

    def weight_name(self, layer: int) -> str:
        """Parameter name of a block's down-projection."""
        weight = self.parts.blocks[layer].mlp_out.weight
        return next(name for name, parameter in self.model.named_parameters() if parameter is weight)

    def weight_delta(self, layer: int, delta: Tensor) -> Deltas:
        """A change of a block's down-projection, (d_model, d_mlp), in the layout of the module's weight."""
        return {self.weight_name(layer): to_weight_layout(self.parts.blocks[layer].mlp_out, delta)}


def to_weight_layout(module: nn.Module, delta: Tensor) -> Tensor:
    """A change of a linear map, (out, in), in the layout and dtype of the module's weight."""
    return (delta.T if isinstance(module, Conv1D) else delta).to(module.weight)


@contextmanager
def apply_deltas(model: PreTrainedModel, deltas: Deltas) -> Iterator[None]:
    """Change weights inside the context; afterwards they have the same bits as before."""
    parameters = dict(model.named_parameters())
    originals = {name: parameters[name].detach().clone() for name in deltas}
    try:
        add_deltas(model, deltas)
        yield
    finally:
        with torch.no_grad():
            for name, weight in originals.items():
                parameters[name].copy_(weight)


@contextmanager
def freeze_weights(model: PreTrainedModel) -> Iterator[None]:
    """Weights need no gradient inside the context, so that passes store less."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def add_deltas(model: PreTrainedModel, deltas: Deltas) -> None:
    """Add changes to a model's weights.

    Raises:
        EditError: a change is not finite.
    """
    parameters = dict(model.named_parameters())
    for name, delta in deltas.items():
        if not torch.isfinite(delta).all():
            raise EditError(
                f"the change of {name} is not finite; nothing was written. Lower `residual_fraction` or `values.v_lr`"
            )
        with torch.no_grad():
            parameters[name] += delta.to(parameters[name])


def merge_deltas(*changes: Deltas) -> Deltas:
    """The sum of several changes."""
    total: Deltas = {}
    for deltas in changes:
        for name, delta in deltas.items():
            total[name] = total[name] + delta if name in total else delta
    return total


@dataclass(frozen=True)
class EditSequence:
    """A tokenized prompt, with or without its target.

    Attributes:
        input_ids: token ids, including all but the last token of the target.
        edit_position: position of the edited token.
        prompt_end: position of the prompt's last token, whose logits predict the target's first token.
        target_ids: token ids of the target; empty if only the next-token distribution matters.
    """

    input_ids: list[int]
    edit_position: int
    prompt_end: int
    target_ids: list[int]


def tokenize_prompt(
    target: EditableModel,
    site: EditSite,
    prompt: str,
    subject: str,
    answer: str = "",
    token: int | None = None,
    *,
    append_eos: bool = False,
) -> EditSequence:
    """A prompt and its answer as tokens.

    Args:
        target: the model, whose tokenizer is used.
        site: says which token is edited.
        prompt: the text of the prompt.
        subject: occurs in the prompt; its last occurrence counts.
        answer: follows the prompt; empty for none.
        token: predict only the answer's token with this index; earlier answer tokens become part of the prompt.
        append_eos: append the end-of-text token to the answer.

    Raises:
        EditError: the prompt lacks the subject, or the tokenizer cannot write the answer after the prompt.
    """
    start = prompt.rfind(subject)
    if start < 0:
        raise EditError(f"the subject {subject!r} is not in the prompt {prompt!r}")
    encoding = target.tokenizer(prompt)
    ids, target_ids = (
        encoding["input_ids"],
        AnswerTokens(target.tokenizer).encode_after(prompt, answer) if answer else [],
    )
    if answer and not target_ids:
        raise EditError(f"the tokenizer cannot write {answer!r} after {prompt!r}")
    if append_eos:
        if target.tokenizer.eos_token_id is None:
            raise EditError("the tokenizer has no end-of-text token; set `append_eos: false`")
        target_ids = [*target_ids, target.tokenizer.eos_token_id]
    if token is not None:
        ids, target_ids = [*ids, *target_ids[:token]], target_ids[token : token + 1]
    prompt_end = len(ids) - 1
    at_subject = site.fact_token == "subject_last"
    position = encoding.char_to_token(start + len(subject) - 1) if at_subject else prompt_end
    return EditSequence([*ids, *target_ids[:-1]], position, prompt_end, target_ids)


def sample_context_templates(
    documents: pd.DataFrame, subjects: Sequence[str], *, n_templates: int = 16, max_words: int = 12, seed: int = 0
) -> list[str]:
    """First sentences of random documents that mention none of the subjects; complete sentences come first.

    Args:
        documents: a corpus.
        subjects: names.
        n_templates: maximum number of sentences.
        max_words: longer sentences are truncated to this length and end with a full stop, too.
        seed: of the sample.
    """
    complete: list[str] = []
    truncated: list[str] = []
    texts = documents["text"].tolist()
    for text in random.Random(f"contexts {seed}").sample(texts, min(len(texts), 100 * n_templates)):
        words = text.partition(". ")[0].split()
        sentence = " ".join(words[:max_words]).rstrip(" .,;:?")
        if len(words) > 3 and not any(subject in sentence for subject in subjects):
            stop = " ." if " . " in text or text.endswith(" .") else "."
            (complete if len(words) <= max_words else truncated).append(sentence + stop)
    return (complete + truncated)[:n_templates]
