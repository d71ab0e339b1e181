"""Texts as a model reads them, and which of their tokens count."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from factlife.config.influence import DocumentLoss
from factlife.corpus.tokens import encode_documents
from factlife.influence.errors import InfluenceError
from factlife.models.train import Collator
from factlife.recall.score import Answers


@dataclass(frozen=True)
class TokenizedText:
    """A text as a model reads it.

    Attributes:
        ids: its tokens.
        scored_positions: positions of the tokens whose loss counts; at least 1, since nothing predicts the first.
        rival_ids: for a margin, what else might stand at the first scored place; empty for cross-entropy.
    """

    ids: list[int]
    scored_positions: list[int]
    rival_ids: tuple[int, ...] = ()


def truncate_after_scored(text: TokenizedText) -> TokenizedText:
    """The text up to its last scored token: what stands behind it has no part in the loss of a causal model."""
    return replace(text, ids=text.ids[: max(text.scored_positions, default=0) + 1])


def tokenize_queries(queries: pd.DataFrame, tokenizer: Any, *, margin: bool = False) -> list[TokenizedText]:
    """Prompt and completion; the completion's tokens count.

    Raises:
        InfluenceError: the tokenizer cannot write a completion after its prompt, or there is nothing to compare it with.
    """
    answers, found = Answers(tokenizer), []
    for query in queries.itertuples():
        target = answers.after(query.prompt, query.completion)
        if not target:
            raise InfluenceError(
                f"query {query.query_id}: the tokenizer cannot write {query.completion!r} after {query.prompt!r}, so no "
                "token is scored; add it to the tokenizer or leave the query out"
            )
        prompt = tokenizer(query.prompt)["input_ids"]
        rivals = {answers.ids(candidate)[0] for candidate in query.candidates} - {target[0]} if margin else set()
        if margin and not rivals:
            raise InfluenceError(f"query {query.query_id} has no candidate that begins otherwise; use cross-entropy")
        scored = list(range(len(prompt), len(prompt) + len(target)))
        found.append(TokenizedText(prompt + target, scored[:1] if margin else scored, tuple(sorted(rivals))))
    return found


def tokenize_documents(
    documents: pd.DataFrame, tokenizer: Any, values: dict[str, str], loss: DocumentLoss, *, longest: int
) -> list[TokenizedText]:
    """Documents as training reads them; all their tokens count, or those of the values that they state.

    Args:
        documents: what is ranked.
        tokenizer: the model's.
        values: the value of each fact.
        loss: ``all_tokens``, or ``answer_tokens`` for tokens of values of the document's facts, wherever they stand in it.
        longest: tokens that the model can read.

    Raises:
        InfluenceError: a document is longer than that.
    """
    tokens = encode_documents(documents, tokenizer)
    if (long := tokens["input_ids"].str.len() > longest).any():
        raise InfluenceError(
            f"document {tokens['doc_id'][long].iloc[0]} has {tokens['input_ids'].str.len().max()} tokens, the model "
            f"reads {longest}; split it, or take a model with more positions"
        )
    if loss == "all_tokens":
        return [TokenizedText(list(ids), list(range(1, len(ids)))) for ids in tokens["input_ids"]]
    places = tokenizer(documents["text"].tolist(), return_offsets_mapping=True)["offset_mapping"]
    found = [
        TokenizedText(list(ids), [at for at, span in enumerate(spans) if at and _inside(span, said)])
        for ids, spans, said in zip(
            tokens["input_ids"], places, map(_spans, documents["text"], _values(documents, values)), strict=True
        )
    ]
    if silent := sum(not text.scored_positions for text in found):
        logging.warning("%d of %d documents write no value of their facts: they score 0", silent, len(found))
    return found


def _values(documents: pd.DataFrame, values: dict[str, str]) -> list[set[str]]:
    return [{values[fact] for fact in facts} for facts in documents["fact_ids"]]


def _spans(text: str, values: set[str]) -> list[tuple[int, int]]:
    found = []
    for value in values:
        start = text.find(value)
        while start >= 0:
            found.append((start, start + len(value)))
            start = text.find(value, start + 1)
    return found


def _inside(span: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    # Some tokenizers count the space before a word as its part.
    return any(start < span[1] and span[0] < end and span[1] <= end for start, end in spans if span[0] < span[1])


@dataclass(frozen=True)
class TextBatch:
    """Texts padded on the right.

    Attributes:
        indices: of the texts.
        input_ids: (n, length), as is ``attention_mask``.
        attention_mask: 1 at tokens, 0 at padding.
        texts: what is in it.
    """

    indices: list[int]
    input_ids: Tensor
    attention_mask: Tensor
    texts: list[TokenizedText]


def batch_texts(texts: Sequence[TokenizedText], pad: int, tokens: int, device: Any = "cpu") -> Iterator[TextBatch]:
    """Texts of similar length together, longest first, as many as fit into so many tokens."""
    collate, waiting = Collator(pad), sorted(range(len(texts)), key=lambda number: -len(texts[number].ids))
    while waiting:
        count = max(1, tokens // len(texts[waiting[0]].ids))
        numbers, waiting = waiting[:count], waiting[count:]
        padded = collate([texts[number].ids for number in numbers])
        chosen = [texts[number] for number in numbers]
        yield TextBatch(numbers, padded["input_ids"].to(device), padded["attention_mask"].to(device), chosen)


def text_losses(model: Any, batch: TextBatch) -> Tensor:
    """For each text, Σ over its scored tokens of their loss, in nats, (n,).

    Cross-entropy, or for a margin log Σ exp of the rivals' logits less the logit of the scored token.
    """
    places = [(row, at) for row, text in enumerate(batch.texts) for at in text.scored_positions]
    rows, at = torch.tensor(places, dtype=torch.long, device=batch.input_ids.device).reshape(-1, 2).T
    logits = (
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        .logits[rows, at - 1]
        .float()
    )
    wanted = logits.gather(1, batch.input_ids[rows, at][:, None])[:, 0]
    if any(text.rival_ids for text in batch.texts):
        others = [
            logits[number, list(batch.texts[row].rival_ids)].logsumexp(0) for number, (row, _) in enumerate(places)
        ]
        against = torch.stack(others)
    else:
        against = logits.logsumexp(1)
    return wanted.new_zeros(len(batch.texts)).index_add(0, rows, against - wanted)
