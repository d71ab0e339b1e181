"""Roles of heads: direct logit attribution (DLA) of each head, split by the tokens that it reads.

A head's output is a sum over the tokens that it attends to. With the scale of the final norm fixed, the logits are a
linear map of the sum of all outputs. So each head's direct effect on the answer splits exactly by token (Chughtai et al.
2024, part 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from factlife import stats
from factlife.circuits.edges import CircuitError, head_projections
from factlife.models.anatomy import capture, decompose_residual, get_anatomy, weight_matrix
from factlife.tracing.patching import stack_ids
from factlife.tracing.prompts import PromptPair

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COLUMNS = [
    "relation", "head", "layer", "role", "metric", "n", "estimate", "ci_low", "ci_high", "interval_over",
]  # fmt: skip
# A head has a single role if its larger effect is at least this many times the smaller one.
RATIO = 10
# Heads below this fraction of the largest head's effect have no role.
FLOOR = 0.05
_METRICS = ["dla_from_subject", "dla_from_relation", "dla_logit_diff", "attention_to_subject"]


class HeadAttribution(NamedTuple):
    """Direct logit attribution of heads, by the token that they read.

    Attributes:
        effects: effect on the answer's logit minus the mean over the vocabulary, (prompt, layer, head, token).
        logit_diff: effect on the answer's logit minus the other answer's, same shape.
        attention: attention from the last token, same shape.
    """

    effects: Tensor
    logit_diff: Tensor
    attention: Tensor


def classify_heads(model: PreTrainedModel, pairs: Sequence[PromptPair], *, resamples: int) -> pd.DataFrame:
    """Classify heads by the tokens from which they read the answer.

    Args:
        model: a model whose attention and MLPs do not write through norms.
        pairs: prompts; their corrupted counterparts are not used.
        resamples: bootstrap resamples of subjects.

    Returns:
        Per relation and head one row for each of ``dla_from_subject`` and ``dla_from_relation`` (direct effect on the answer's
        logit, centred over the vocabulary, from the subject's tokens and from later tokens), ``dla_logit_diff`` (effect on
        the answer's logit minus the other answer's) and ``attention_to_subject``: means over prompts, intervals over
        subjects. ``role`` is *subject* or *relation* if that effect is at least ``RATIO`` times the other in size, *mixed*
        otherwise, and *none* below ``FLOOR`` of the largest head's effect.

    Raises:
        CircuitError: heads write through a norm, so their effects do not add up.
    """
    rows = []
    for relation in dict.fromkeys(pair.relation for pair in pairs):
        values, subjects = [], []
        for group in _groups([pair for pair in pairs if pair.relation == relation]):
            attribution, subject = direct_logit_attribution(model, group), group[0].subject
            values.append(
                torch.stack(
                    [
                        attribution.effects[..., subject].sum(-1),
                        attribution.effects[..., subject.stop :].sum(-1),
                        attribution.logit_diff.sum(-1),
                        attribution.attention[..., subject].sum(-1),
                    ],
                    -1,
                )
            )
            subjects += [pair.fact_id.split(".")[0] for pair in group]
        all_values = torch.cat(values).double()
        n_layers, n_heads = all_values.shape[1:3]
        interval = stats.cluster_bootstrap(all_values.flatten(1).numpy(), np.array(subjects), resamples=resamples)
        names = [f"a{layer}.h{head}" for layer in range(n_layers) for head in range(n_heads)]
        table = stats.summary_rows({"relation": relation}, _METRICS * len(names), interval)
        classes = assign_roles(all_values.mean(0).flatten(0, 1)[:, :2].numpy())
        rows.append(
            table.assign(
                head=np.repeat(names, len(_METRICS)),
                layer=np.repeat(np.arange(n_layers), n_heads * len(_METRICS)),
                role=np.repeat(classes, len(_METRICS)),
            )
        )
    return pd.concat(rows, ignore_index=True)[COLUMNS] if rows else pd.DataFrame(columns=COLUMNS)


def assign_roles(effects: np.ndarray) -> list[str]:
    """Role of each head from its effects, (head, 2): from the subject, and from later tokens."""
    sizes = np.abs(effects)
    is_strong = sizes.sum(1) >= FLOOR * sizes.sum(1).max()
    dominant = np.where(sizes[:, 0] >= RATIO * sizes[:, 1], "subject", "relation")
    mixed = sizes.max(1) < RATIO * sizes.min(1)
    return np.where(~is_strong, "none", np.where(mixed, "mixed", dominant)).tolist()


@torch.no_grad()
def direct_logit_attribution(model: PreTrainedModel, pairs: Sequence[PromptPair]) -> HeadAttribution:
    """Direct logit attribution of all heads on prompts of equal length.

    Raises:
        CircuitError: heads write through a norm.
    """
    parts = get_anatomy(model)
    if parts.post_norm:
        raise CircuitError(
            f"outputs of heads in {model.config.model_type} do not add up, since attention writes through a norm: "
            "there is no direct logit attribution of heads"
        )
    ids = stack_ids([pair.ids for pair in pairs]).to(model.device)
    norms = {layer: block.attention_norm for layer, block in enumerate(parts.blocks)}
    residual = decompose_residual(model, ids, torch.ones_like(ids))[1][:, -1]
    with capture(norms) as norm_outputs, _eager(model):
        patterns = model.base_model(ids, use_cache=False, output_attentions=True).attentions
    unembedding = parts.unembedding.weight
    answers = torch.tensor([[pair.answer, pair.donor_answer] for pair in pairs], device=unembedding.device)
    answer_vectors = unembedding[answers]
    directions = torch.stack(
        [answer_vectors[:, 0] - unembedding.mean(0), answer_vectors[:, 0] - answer_vectors[:, 1]], 1
    )
    directions = parts.logit_scale * direction_before_norm(parts.final_norm, residual[:, None], directions)
    effects = []
    for layer, block in enumerate(parts.blocks):
        projections = head_projections(block, parts.n_heads, parts.n_kv_heads, parts.head_dim)
        start = parts.n_heads + parts.n_kv_heads
        values = (
            torch.einsum("bpd,hkd->bhpk", norm_outputs[layer], projections.weight[start:])
            + projections.bias[start:, None]
        )
        values = values.repeat_interleave(parts.n_heads // parts.n_kv_heads, 1)
        output_weight = weight_matrix(block.attention_out).T.unflatten(0, (parts.n_heads, parts.head_dim))
        head_directions = torch.einsum("hkd,bcd->bchk", output_weight, directions)
        effects.append(torch.einsum("bhp,bhpk,bchk->bchp", patterns[layer][:, :, -1], values, head_directions))
    contributions = torch.stack(effects, 2).float().cpu()
    attention = torch.stack([pattern[:, :, -1] for pattern in patterns], 1).float().cpu()
    return HeadAttribution(contributions[:, 0], contributions[:, 1], attention)


def direction_before_norm(norm: nn.Module, residual: Tensor, direction: Tensor) -> Tensor:
    """Pull a direction back through a norm, with the norm's scale fixed at this residual stream, (…, d_model).

    The norm is x ↦ gain · centred(x) / scale(x) + bias. Its gain is measured on ±1 vectors with mean 0, scaled up so that
    epsilon is negligible.
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
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Use eager attention, which returns attention patterns, inside the context."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def _groups(pairs: Sequence[PromptPair]) -> Iterator[list[PromptPair]]:
    """Groups of pairs with equal length and the same subject positions."""
    keys = dict.fromkeys((len(pair.ids), pair.subject) for pair in pairs)
    for key in keys:
        yield [pair for pair in pairs if (len(pair.ids), pair.subject) == key]
