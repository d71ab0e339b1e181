"""Texts that a generation generates, in batches of similar length, left-padded, which shrink as texts end.

The draws depend only on the seed and the index of a text, never on its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache

from factlife.config.collapse import Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Finished texts leave a batch once they make up this fraction of it.
_FINISHED_FRACTION = 0.1


def generate_samples(
    sampler: Sampler,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    real: pd.DataFrame,
    seed: int,
    generation: int,
) -> pd.DataFrame:
    """Continue the first tokens of real texts: ``prompt, text, tokens, ends_with_eos``, one row per text."""
    prompts = [_prompt(text, tokenizer, sampler) for text in real["text"]]
    new_ids = sample_texts(model, tokenizer, prompts, sampler, seed=1000 * seed + generation)
    text_ids = [prompt * sampler.keep_prompt + ids for prompt, ids in zip(prompts, new_ids, strict=True)]
    return pd.DataFrame(
        {
            "prompt": tokenizer.batch_decode(prompts, skip_special_tokens=True),
            "text": tokenizer.batch_decode(text_ids, skip_special_tokens=True),
            "tokens": [len(ids) for ids in new_ids],
            "ends_with_eos": [ids[-1] == tokenizer.eos_token_id for ids in new_ids],
        }
    )


def _prompt(text: str, tokenizer: PreTrainedTokenizerBase, sampler: Sampler) -> list[int]:
    """The first tokens of a text, after the beginning-of-text token or inside the tokenizer's chat template."""
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = tokenizer(text)["input_ids"]
    ids = ids[ids[:1] == [tokenizer.bos_token_id] :][: sampler.prompt_tokens]
    if sampler.chat_instruction is None:
        # A model without a beginning-of-text token continues the text alone, if there is any.
        return ids if ids and tokenizer.bos_token_id is None else [bos, *ids]
    # The instruction goes into the user's turn: not every template takes a system message.
    messages = [{"role": "user", "content": f"{sampler.chat_instruction}\n\n{tokenizer.decode(ids)}"}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def sample_texts(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], settings: Sampler, *, seed: int
) -> list[list[int]]:
    """Continue each prompt.

    ``greedy`` gives the tokens of ``generate(do_sample=False)``. ``sample`` inverts the cumulative distribution at one
    uniform random number for each text and position.

    Args:
        model: a causal language model of transformers, in eval mode.
        tokenizer: its tokenizer.
        prompts: token ids, at least one for each prompt.
        settings: decoding settings.
        seed: seed of the draws.

    Returns:
        New token ids of each prompt, in the order of the prompts; those of a finished text end with the end-of-text token.
    """
    new_ids: list[list[int]] = [[] for _ in prompts]
    uniform = np.random.default_rng(seed).random((len(prompts), settings.max_new_tokens), dtype=np.float32)
    for batch in _batches([len(prompt) for prompt in prompts], settings):
        rows = [list(prompts[i]) for i in batch]
        with torch.inference_mode():
            if settings.method == "beam":
                batch_ids = _beam_search(model, tokenizer, rows, settings)
            else:
                batch_ids = _sample_batch(model, tokenizer, rows, torch.from_numpy(uniform[batch]), settings)
        for i, ids in zip(batch, batch_ids, strict=True):
            new_ids[i] = ids
    return new_ids


def _batches(lengths: Sequence[int], settings: Sampler) -> Iterator[list[int]]:
    """Prompt indices of each batch, longest first; a batch holds as many as fit with all their new tokens."""
    width = settings.num_beams if settings.method == "beam" else 1
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * width * (lengths[batch[0]] + settings.max_new_tokens) > settings.batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _left_pad(model: Any, tokenizer: Any, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (batch, length), padded on the left."""
    length = max(map(len, rows))
    pad = tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (length - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=model.device)
    return ids, mask


def _sample_batch(
    model: Any, tokenizer: Any, rows: list[list[int]], uniform: Tensor, settings: Sampler
) -> list[list[int]]:
    ids, mask = _left_pad(model, tokenizer, rows)
    uniform, is_padded = uniform.to(model.device), not bool(mask.all())
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    eos = -1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    new_ids = torch.full((len(rows), settings.max_new_tokens), eos, device=model.device)
    row_indices = torch.arange(len(rows), device=model.device)
    unfinished = torch.ones_like(row_indices, dtype=torch.bool)
    cache = DynamicCache(config=model.config)
    for position in range(settings.max_new_tokens):
        # Without padding no mask is needed, and attention is faster without one.
        logits = model(
            input_ids=ids, attention_mask=mask if is_padded else None, position_ids=position_ids, past_key_values=cache,
            use_cache=True, logits_to_keep=1,
        ).logits[:, -1].float()  # fmt: skip
        if settings.method == "greedy":
            tokens = logits.argmax(-1)
        else:
            tokens = _invert_cdf(logits, uniform[row_indices, position], settings)
        new_ids[row_indices[unfinished], position] = tokens[unfinished]
        unfinished = unfinished & (tokens != eos)
        if not unfinished.any():
            break
        ids, position_ids = tokens[:, None], position_ids[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        if unfinished.float().mean() <= 1 - _FINISHED_FRACTION:
            rows_to_keep = unfinished.nonzero()[:, 0]
            cache.batch_select_indices(rows_to_keep)
            ids, position_ids, mask, row_indices, unfinished = (
                tensor[rows_to_keep] for tensor in (ids, position_ids, mask, row_indices, unfinished)
            )
    return [_truncate_at_eos(row, eos) for row in new_ids.tolist()]


def _invert_cdf(logits: Tensor, uniform: Tensor, settings: Sampler) -> Tensor:
    """The token at which the cumulative distribution passes a uniform number, (batch,), from (batch, vocabulary)."""
    probs = (logits / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        sorted_probs, order = probs.sort(-1, descending=True)
        # A token stays if the more probable ones have less than top_p together, so at least one always stays.
        in_nucleus = sorted_probs.cumsum(-1) - sorted_probs < settings.top_p
        probs = probs.scatter(-1, order, sorted_probs.where(in_nucleus, 0))
    cumulative = probs.cumsum(-1)
    tokens = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return tokens[:, 0].clamp(max=logits.shape[-1] - 1)


def _beam_search(model: Any, tokenizer: Any, rows: list[list[int]], settings: Sampler) -> list[list[int]]:
    ids, mask = _left_pad(model, tokenizer, rows)
    eos = tokenizer.eos_token_id
    output_ids = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, num_beams=settings.num_beams,
        max_new_tokens=settings.max_new_tokens, repetition_penalty=1.0, no_repeat_ngram_size=0, length_penalty=1.0,
        early_stopping=False, pad_token_id=eos if eos is not None else 0, eos_token_id=eos,
    )  # fmt: skip
    return [_truncate_at_eos(row, -1 if eos is None else eos) for row in output_ids[:, ids.shape[1] :].tolist()]


def _truncate_at_eos(row: list[int], eos: int) -> list[int]:
    """The ids up to and including the first end-of-text token."""
    return row[: row.index(eos) + 1] if eos in row else row
