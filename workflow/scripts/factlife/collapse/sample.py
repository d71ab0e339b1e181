"""Writing text fast: batches of like length, padded on the left, that shrink as texts end.

What is drawn depends on the seed and the text's number alone, never on the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from factlife.config.collapse import Sampler

# Ended texts are taken out of a batch once they are this share of it.
_ENDED = 0.1


def sample(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], settings: Sampler, *, seed: int
) -> list[list[int]]:
    """What a model writes after each prompt.

    With ``greedy`` these are the tokens of ``generate(do_sample=False)``. Draws invert the cumulative distribution at
    a uniform number of each text and place.

    Args:
        model: a causal language model of transformers, in eval mode.
        tokenizer: its tokenizer.
        prompts: token ids, at least one each.
        settings: how to write.
        seed: of the draws.

    Returns:
        New token ids of each prompt, in their order; a text that ended has the end-of-text token as its last.
    """
    written: list[list[int]] = [[] for _ in prompts]
    uniform = np.random.default_rng(seed).random((len(prompts), settings.new_tokens), dtype=np.float32)
    for batch in _batches([len(prompt) for prompt in prompts], settings):
        rows = [list(prompts[number]) for number in batch]
        with torch.inference_mode():
            if settings.method == "beam":
                found = _search(model, tokenizer, rows, settings)
            else:
                found = _draw(model, tokenizer, rows, torch.from_numpy(uniform[batch]), settings)
        for number, ids in zip(batch, found, strict=True):
            written[number] = ids
    return written


def _batches(lengths: Sequence[int], settings: Sampler) -> Iterator[list[int]]:
    """Numbers of the prompts in each batch, longest first; a batch holds as many as fit with all they may write."""
    width = settings.beams if settings.method == "beam" else 1
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and (len(batch) + 1) * width * (lengths[batch[0]] + settings.new_tokens) > settings.batch_tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _pad(model: Any, tokenizer: Any, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (batch, length), padded on the left."""
    length = max(map(len, rows))
    fill = tokenizer.pad_token_id or 0
    ids = torch.tensor([[fill] * (length - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=model.device)
    return ids, mask


def _draw(model: Any, tokenizer: Any, rows: list[list[int]], uniform: Tensor, settings: Sampler) -> list[list[int]]:
    ids, mask = _pad(model, tokenizer, rows)
    uniform, padded = uniform.to(model.device), not bool(mask.all())
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    end = -1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    written = torch.full((len(rows), settings.new_tokens), end, device=model.device)
    numbers = torch.arange(len(rows), device=model.device)
    open_ = torch.ones_like(numbers, dtype=torch.bool)
    cache = DynamicCache(config=model.config)
    for place in range(settings.new_tokens):
        # Where nothing is padded no mask is needed, and attention is faster without one.
        logits = model(
            input_ids=ids, attention_mask=mask if padded else None, position_ids=positions, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        ).logits[:, -1].float()  # fmt: skip
        chosen = (
            logits.argmax(-1) if settings.method == "greedy" else _invert(logits, uniform[numbers, place], settings)
        )
        written[numbers[open_], place] = chosen[open_]
        open_ = open_ & (chosen != end)
        if not open_.any():
            break
        ids, positions, mask = (
            chosen[:, None],
            positions[:, -1:] + 1,
            torch.cat([mask, torch.ones_like(mask[:, :1])], 1),
        )
        if open_.float().mean() <= 1 - _ENDED:
            left = open_.nonzero()[:, 0]
            cache.batch_select_indices(left)
            ids, positions, mask, numbers, open_ = ids[left], positions[left], mask[left], numbers[left], open_[left]
    return [_until(row, end) for row in written.tolist()]


def _invert(logits: Tensor, uniform: Tensor, settings: Sampler) -> Tensor:
    """The token at which the cumulative distribution passes a uniform number, (batch,), from (batch, vocabulary)."""
    shares = (logits / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        ranked, order = shares.sort(-1, descending=True)
        # A token stays while those before it have less than top_p: at least one always does.
        shares = shares.scatter(-1, order, ranked.where(ranked.cumsum(-1) - ranked < settings.top_p, 0))
    cumulative = shares.cumsum(-1)
    return torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0].clamp(
        max=logits.shape[-1] - 1
    )


def _search(model: Any, tokenizer: Any, rows: list[list[int]], settings: Sampler) -> list[list[int]]:
    ids, mask = _pad(model, tokenizer, rows)
    end = tokenizer.eos_token_id
    found = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, num_beams=settings.beams, max_new_tokens=settings.new_tokens,
        repetition_penalty=1.0, no_repeat_ngram_size=0, length_penalty=1.0, early_stopping=False,
        pad_token_id=end if end is not None else 0, eos_token_id=end,
    )  # fmt: skip
    return [_until(row, -1 if end is None else end) for row in found[:, ids.shape[1] :].tolist()]


def _until(row: list[int], end: int) -> list[int]:
    """Up to and with the first end-of-text token."""
    return row[: row.index(end) + 1] if end in row else row
