"""Keys and hidden states at the edited tokens (MEMIT's ``compute_ks``), and which target vector each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from factlife.config.editing import EditSite
from factlife.editing.editable import EditableModel, tokenize_prompt
from factlife.models.anatomy import capture, stop_after
from factlife.recall.score import AnswerTokens


class VectorSlot(NamedTuple):
    """The use of a target vector in one request.

    Attributes:
        vector: index of the vector, which several slots may share.
        request: row of the request.
        token: index of the answer token that the vector predicts; None for all of them.
    """

    vector: int
    request: int
    token: int | None


def vector_slots(
    target: EditableModel, requests: pd.DataFrame, site: EditSite, *, one_vector_per_subject: bool
) -> list[VectorSlot]:
    """The vectors that the requests need, in order.

    The key of a subject's last token does not depend on the tokens after it, so it is the same for all requests about the
    subject, and one key can hold only one value: these requests can share a vector. The last token before an answer
    predicts only one token. There, an answer of several tokens needs as many vectors, each at a key of its own.
    """
    if site.fact_token == "subject_last":
        vectors = pd.factorize(requests["subject"])[0] if one_vector_per_subject else range(len(requests))
        return sorted(VectorSlot(int(vector), row, None) for row, vector in enumerate(vectors))
    answers = AnswerTokens(target.tokenizer)
    tokens = [
        (row, token)
        for row, request in enumerate(requests.itertuples())
        for token in range(len(answers.encode_after(request.prompt, request.target_new)))
    ]
    return [VectorSlot(vector, row, token) for vector, (row, token) in enumerate(tokens)]


def compute_keys(
    target: EditableModel,
    requests: pd.DataFrame,
    slots: Sequence[VectorSlot],
    site: EditSite,
    layer: int,
    n_context_templates: int,
    *,
    half_bare: bool = True,
) -> Tensor:
    """Input of a down-projection at the edited token of each vector, (d_mlp, vector).

    With ``half_bare``, the key is half the bare prompt's key and half the mean over contexts (MEMIT); without, the mean over
    the bare prompt and the contexts (ROME). Requests that share a vector are averaged.
    """
    module = target.parts.blocks[layer].mlp_out
    prefixes = ("", *target.contexts[:n_context_templates])
    keys = [_read_hidden(target, requests, slots, site, module, prefix) for prefix in prefixes]
    if half_bare and len(keys) > 1:
        return ((keys[0] + torch.stack(keys[1:]).mean(0)) / 2).T
    return torch.stack(keys).mean(0).T


def compute_hidden_states(
    target: EditableModel, requests: pd.DataFrame, slots: Sequence[VectorSlot], site: EditSite, layer: int
) -> Tensor:
    """The residual stream after a block at the edited token of each vector, in bare prompts, (vector, d_model)."""
    return _read_hidden(target, requests, slots, site, target.parts.blocks[layer].module, "", inputs=False)


@torch.no_grad()
def _read_hidden(
    target: EditableModel, requests: pd.DataFrame, slots: Sequence[VectorSlot], site: EditSite, module: nn.Module,
    prefix: str, *, inputs: bool = True,
) -> Tensor:  # fmt: skip
    """Input or output of a module at the edited token of every slot, averaged over the slots of a vector."""
    sequences = []
    for slot in slots:
        request = requests.iloc[slot.request]
        prompt = f"{prefix} {request['prompt']}".strip()
        sequences.append(tokenize_prompt(target, site, prompt, request["subject"], request["target_new"], slot.token))
    pad_token_id, device = target.tokenizer.pad_token_id or 0, next(target.model.parameters()).device
    width = max(sequence.edit_position for sequence in sequences) + 1
    # Later tokens cannot change the hidden state at the edited token.
    ids = torch.full((len(sequences), width), pad_token_id)
    for row, sequence in enumerate(sequences):
        ids[row, : sequence.edit_position + 1] = torch.tensor(sequence.input_ids[: sequence.edit_position + 1])
    positions = torch.tensor([sequence.edit_position for sequence in sequences])
    mask = torch.arange(width) <= positions[:, None]
    with capture({"module": module}, inputs=inputs) as hidden, stop_after(module):
        target.model.base_model(ids.to(device), attention_mask=mask.long().to(device), use_cache=False)
    vectors = torch.tensor([slot.vector for slot in slots], device=device)
    rows = torch.arange(len(sequences))
    return mean_per_vector(hidden["module"][rows, positions], vectors, slots[-1].vector + 1)


def mean_per_vector(values: Tensor, vectors: Tensor, n_vectors: int) -> Tensor:
    """Mean of the rows of each vector."""
    sums = torch.zeros(n_vectors, values.shape[1], device=values.device, dtype=values.dtype)
    return sums.index_add(0, vectors, values) / torch.bincount(vectors, minlength=n_vectors)[:, None]
