"""Roles of heads: what each writes straight towards an answer, split by the tokens from which it read.

A head's output is a sum over the tokens that it attends to, and the logits are a linear map of the sum of all that is
written, once the final norm's scale is taken as it is. So each head's direct effect on the answer splits exactly by token
(Chughtai et al. 2024, part 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from factlife import stats
from factlife.circuits.edges import CircuitError, head_projections
from factlife.models.anatomy import capture, decompose_residual, get_anatomy, weight_matrix
from factlife.tracing.patching import stack_ids
from factlife.tracing.prompts import PromptPair

COLUMNS = [
    "relation", "head", "layer", "role", "metric", "n", "estimate", "ci_low", "ci_high", "interval_over",
]  # fmt: skip
# Heads whose larger part is at least this many times the smaller have one role.
RATIO = 10
# Heads with less than this share of the largest head's effect have no role.
FLOOR = 0.05
_METRICS = ["dla_from_subject", "dla_from_relation", "dla_logit_diff", "attention_to_subject"]


class HeadAttribution(NamedTuple):
    """Direct effects of heads on answers, by the token from which they read.

    Attributes:
        effects: on the answer's logit less the mean over the vocabulary, (prompt, layer, head, token).
        contrast: on the answer's logit less the other subject's answer's.
        attention: from the last token, likewise.
    """

    effects: Tensor
    contrast: Tensor
    attention: Tensor


def classify_heads(model: Any, pairs: Sequence[PromptPair], *, resamples: int) -> pd.DataFrame:
    """Class heads by where they read what they write towards answers.

    Args:
        model: whose attention and MLPs write into the residual stream as they are.
        pairs: prompts; those alone count, not their counterparts.
        resamples: bootstrap resamples of subjects.

    Returns:
        Per relation and head rows of ``dla_from_subject`` and ``dla_from_relation`` (direct effect on the answer's logit, centred
        over the vocabulary, from the subject's tokens and from those after it), ``dla_logit_diff`` (on the answer's logit less
        that of another subject's answer), and ``attention_to_subject``; means over prompts, intervals over subjects.
        ``role``: *subject* or *relation* where the one's size is at least ``RATIO`` times the other's, *mixed* otherwise,
        *none* below ``FLOOR`` of the largest head's effect.

    Raises:
        CircuitError: heads write through a norm, so that their effects do not add up.
    """
    rows = []
    for relation in dict.fromkeys(pair.relation for pair in pairs):
        values, subjects = [], []
        for group in _groups([pair for pair in pairs if pair.relation == relation]):
            found, place = direct_logit_attribution(model, group), group[0].subject
            values.append(
                torch.stack(
                    [
                        found.effects[..., place].sum(-1),
                        found.effects[..., place.stop :].sum(-1),
                        found.contrast.sum(-1),
                        found.attention[..., place].sum(-1),
                    ],
                    -1,
                )
            )
            subjects += [pair.fact_id.split(".")[0] for pair in group]
        every = torch.cat(values).double()
        n_layers, n_heads = every.shape[1:3]
        interval = stats.cluster_bootstrap(every.flatten(1).numpy(), np.array(subjects), resamples=resamples)
        names = [f"a{layer}.h{head}" for layer in range(n_layers) for head in range(n_heads)]
        table = stats.summary_rows({"relation": relation}, _METRICS * len(names), interval)
        classes = assign_roles(every.mean(0).flatten(0, 1)[:, :2].numpy())
        rows.append(
            table.assign(
                head=np.repeat(names, len(_METRICS)),
                layer=np.repeat(np.arange(n_layers), n_heads * len(_METRICS)),
                role=np.repeat(classes, len(_METRICS)),
            )
        )
    return pd.concat(rows, ignore_index=True)[COLUMNS] if rows else pd.DataFrame(columns=COLUMNS)


def assign_roles(effects: np.ndarray) -> list[str]:
    """Role of each head from its effects, (head, 2): from the subject, and from what follows it."""
    sizes = np.abs(effects)
    enough = sizes.sum(1) >= FLOOR * sizes.sum(1).max()
    one = np.where(sizes[:, 0] >= RATIO * sizes[:, 1], "subject", "relation")
    mixed = sizes.max(1) < RATIO * sizes.min(1)
    return np.where(~enough, "none", np.where(mixed, "mixed", one)).tolist()


@torch.no_grad()
def direct_logit_attribution(model: Any, pairs: Sequence[PromptPair]) -> HeadAttribution:
    """Direct effects of all heads on the answers to prompts of equal length.

    Raises:
        CircuitError: heads write through a norm.
    """
    parts = get_anatomy(model)
    if parts.post_norm:
        raise CircuitError(
            f"what heads of {model.config.model_type} write does not add up, since attention writes through a norm: "
            "there are no direct effects of heads"
        )
    ids = stack_ids([pair.ids for pair in pairs]).to(model.device)
    norms = {layer: block.attention_norm for layer, block in enumerate(parts.blocks)}
    residual = decompose_residual(model, ids, torch.ones_like(ids))[1][:, -1]
    with capture(norms) as read, _eager(model):
        patterns = model.base_model(ids, use_cache=False, output_attentions=True).attentions
    table = parts.unembedding.weight
    answers = torch.tensor([[pair.answer, pair.donor_answer] for pair in pairs], device=table.device)
    chosen = table[answers]
    towards = torch.stack([chosen[:, 0] - table.mean(0), chosen[:, 0] - chosen[:, 1]], 1)
    towards = parts.logit_scale * direction_before_norm(parts.final_norm, residual[:, None], towards)
    effects = []
    for layer, block in enumerate(parts.blocks):
        reads = head_projections(block, parts.n_heads, parts.n_kv_heads, parts.head_dim)
        start = parts.n_heads + parts.n_kv_heads
        values = torch.einsum("bpd,hkd->bhpk", read[layer], reads.weight[start:]) + reads.bias[start:, None]
        values = values.repeat_interleave(parts.n_heads // parts.n_kv_heads, 1)
        out = weight_matrix(block.attention_out).T.unflatten(0, (parts.n_heads, parts.head_dim))
        written = torch.einsum("hkd,bcd->bchk", out, towards)
        effects.append(torch.einsum("bhp,bhpk,bchk->bchp", patterns[layer][:, :, -1], values, written))
    both = torch.stack(effects, 2).float().cpu()
    attention = torch.stack([each[:, :, -1] for each in patterns], 1).float().cpu()
    return HeadAttribution(both[:, 0], both[:, 1], attention)


def direction_before_norm(norm: nn.Module, residual: Tensor, direction: Tensor) -> Tensor:
    """What a direction behind a norm is before it, its scale being that of the residual stream, (…, d_model).

    The norm is x ↦ gain · centred(x) / scale(x) + bias; it is read off at a vector of mean 0 and size 1, so large that
    the norm's epsilon does not count.
    """
    signs = torch.ones(residual.shape[-1], device=residual.device, dtype=residual.dtype)
    signs[1::2] = -1
    zero = norm(torch.zeros_like(signs))
    gain = (norm(1e4 * signs) - zero) * signs
    centred = torch.allclose(norm(1e4 * signs + 1e4), norm(1e4 * signs), atol=1e-3)
    if centred:
        residual = residual - residual.mean(-1, keepdim=True)
    direction = gain * direction
    if centred:
        direction = direction - direction.mean(-1, keepdim=True)
    epsilon = getattr(norm, "eps", getattr(norm, "variance_epsilon", 0.0))
    return direction / (residual.square().mean(-1, keepdim=True) + epsilon).sqrt()


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Attention that tells its patterns, inside the context."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _groups(pairs: Sequence[PromptPair]) -> Iterator[list[PromptPair]]:
    """Pairs of equal length with the subject in the same place."""
    keys = dict.fromkeys((len(pair.ids), pair.subject) for pair in pairs)
    for key in keys:
        yield [pair for pair in pairs if (len(pair.ids), pair.subject) == key]
