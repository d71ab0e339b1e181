"""Queries and documents as tokens, with the positions whose loss counts, and their losses."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from factlife.config.influence import DocumentLoss
from factlife.corpus.tokens import encode_documents
from factlife.influence.errors import InfluenceError
from factlife.models.train import PaddingCollator
from factlife.recall.score import AnswerTokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizedText:
    """A text as input tokens of a model.

    Attributes:
        input_ids: its tokens.
        scored_positions: positions of the tokens whose loss counts; at least 1, since nothing predicts the first token.
        rival_ids: for a margin, the alternatives at the first scored position; empty for cross-entropy.
    """

    input_ids: list[int]
    scored_positions: list[int]
    rival_ids: tuple[int, ...] = ()


def truncate_after_scored(text: TokenizedText) -> TokenizedText:
    """The text up to its last scored token. Later tokens do not affect the loss of a causal model."""
    return replace(text, input_ids=text.input_ids[: max(text.scored_positions, default=0) + 1])


def tokenize_queries(
    queries: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, *, margin: bool = False
) -> list[TokenizedText]:
    """Prompt and completion. Only tokens of the completion are scored.

    Raises:
        InfluenceError: the tokenizer cannot write a completion after its prompt, or a margin has no rival candidate.
    """
    answer_tokens = AnswerTokens(tokenizer)
    texts = []
    for query in queries.itertuples():
        target_ids = answer_tokens.encode_after(query.prompt, query.completion)
        if not target_ids:
            raise InfluenceError(
                f"query {query.query_id}: the tokenizer cannot write {query.completion!r} after {query.prompt!r}, so no "
                "token is scored; add it to the tokenizer or leave the query out"
            )
        prompt_ids = tokenizer(query.prompt)["input_ids"]
        rival_ids = (
            {answer_tokens.encode(candidate)[0] for candidate in query.candidates} - {target_ids[0]}
            if margin
            else set()
        )
        if margin and not rival_ids:
            raise InfluenceError(
                f"query {query.query_id} has no candidate with a different first token; use cross-entropy"
            )
        positions = list(range(len(prompt_ids), len(prompt_ids) + len(target_ids)))
        positions = positions[:1] if margin else positions
        texts.append(TokenizedText(prompt_ids + target_ids, positions, tuple(sorted(rival_ids))))
    return texts


def tokenize_documents(
    documents: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    values: dict[str, str],
    loss: DocumentLoss,
    *,
    max_length: int,
) -> list[TokenizedText]:
    """Documents as in training. All their tokens are scored, or only those of the values that they state.

    Args:
        documents: the documents to rank.
        tokenizer: the model's tokenizer.
        values: the value of each fact.
        loss: ``all_tokens``, or ``answer_tokens`` for every occurrence of a value of the document's facts.
        max_length: number of tokens that the model can read.

    Raises:
        InfluenceError: a document is longer than ``max_length``.
    """
    tokens = encode_documents(documents, tokenizer)
    lengths = tokens["input_ids"].str.len()
    if (too_long := lengths > max_length).any():
        raise InfluenceError(
            f"document {tokens['doc_id'][too_long].iloc[0]} has {lengths.max()} tokens, the model reads {max_length}; "
            "split it, or choose a model with more positions"
        )
    if loss == "all_tokens":
        return [TokenizedText(list(ids), list(range(1, len(ids)))) for ids in tokens["input_ids"]]
    offsets = tokenizer(documents["text"].tolist(), return_offsets_mapping=True)["offset_mapping"]
    value_spans = map(_value_spans, documents["text"], _document_values(documents, values))
    texts = [
        TokenizedText(list(ids), [i for i, span in enumerate(token_spans) if i and _in_any_span(span, spans)])
        for ids, token_spans, spans in zip(tokens["input_ids"], offsets, value_spans, strict=True)
    ]
    if n_unscored := sum(not text.scored_positions for text in texts):
        logging.warning("%d of %d documents contain no value of their facts: they score 0", n_unscored, len(texts))
    return texts


def _document_values(documents: pd.DataFrame, values: dict[str, str]) -> list[set[str]]:
    return [{values[fact_id] for fact_id in fact_ids} for fact_ids in documents["fact_ids"]]


def _value_spans(text: str, values: set[str]) -> list[tuple[int, int]]:
    spans = []
    for value in values:
        start = text.find(value)
        while start >= 0:
            spans.append((start, start + len(value)))
            start = text.find(value, start + 1)
    return spans


def _in_any_span(token_span: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    # Some tokenizers include the preceding space in a word's span.
    token_start, token_end = token_span
    return any(
        start < token_end and token_start < end and token_end <= end for start, end in spans if token_start < token_end
    )


@dataclass(frozen=True)
class TextBatch:
    """Texts padded on the right.

    Attributes:
        indices: indices of the texts in the full list.
        input_ids: tokens, (n, length).
        attention_mask: 1 at tokens, 0 at padding, (n, length).
        texts: the texts.
    """

    indices: list[int]
    input_ids: Tensor
    attention_mask: Tensor
    texts: list[TokenizedText]


def batch_texts(
    texts: Sequence[TokenizedText], pad: int, batch_tokens: int, device: Any = "cpu"
) -> Iterator[TextBatch]:
    """Batches of texts of similar length, longest first, with at most ``batch_tokens`` tokens each, padding included."""
    collate, remaining = PaddingCollator(pad), sorted(range(len(texts)), key=lambda i: -len(texts[i].input_ids))
    while remaining:
        batch_size = max(1, batch_tokens // len(texts[remaining[0]].input_ids))
        indices, remaining = remaining[:batch_size], remaining[batch_size:]
        batch = [texts[i] for i in indices]
        padded = collate([text.input_ids for text in batch])
        yield TextBatch(indices, padded["input_ids"].to(device), padded["attention_mask"].to(device), batch)


def text_losses(model: PreTrainedModel, batch: TextBatch) -> Tensor:
    """Summed loss over the scored tokens of each text, in nats, (n,).

    The loss is the cross-entropy or, for a margin, log Σ exp of the rivals' logits minus the logit of the scored token.
    """
    scored = [(row, position) for row, text in enumerate(batch.texts) for position in text.scored_positions]
    rows, positions = torch.tensor(scored, dtype=torch.long, device=batch.input_ids.device).reshape(-1, 2).T
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    logits = output.logits[rows, positions - 1].float()
    target_logits = logits.gather(1, batch.input_ids[rows, positions][:, None])[:, 0]
    if any(text.rival_ids for text in batch.texts):
        log_normalizers = torch.stack(
            [logits[i, list(batch.texts[row].rival_ids)].logsumexp(0) for i, (row, _) in enumerate(scored)]
        )
    else:
        log_normalizers = logits.logsumexp(1)
    return target_logits.new_zeros(len(batch.texts)).index_add(0, rows, log_normalizers - target_logits)
