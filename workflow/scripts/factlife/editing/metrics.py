"""Metrics besides the probes: fluency and consistency of generated text, perplexity, and norms of weight changes."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from factlife.config.editing import EditEvaluation
from factlife.editing.editable import Deltas, EditableModel
from factlife.recall.perplexity import text_losses

COLUMNS = ["metric", "item", "value", "weight"]


@dataclass(frozen=True)
class EditMetrics:
    """Settings and texts of the metrics.

    Attributes:
        settings: of the evaluation.
        texts: texts for perplexity, by id.
        references: reference texts by edit, for the consistency of generated text.
    """

    settings: EditEvaluation
    texts: Mapping[str, str]
    references: Mapping[str, Sequence[str]]

    def __call__(
        self, target: EditableModel, requests: pd.DataFrame, deltas: Deltas, *, perplexity: bool = True
    ) -> pd.DataFrame:
        """Compute the metrics of a model as it is.

        Args:
            target: the model, with the changes in its weights.
            requests: the edited requests; text is generated for the first of them.
            deltas: the changes.
            perplexity: also compute the likelihood of the texts.

        Returns:
            One row per item, columns ``COLUMNS``: ``fluency`` and ``consistency`` of an edit; ``nll`` of a text in nats, with
            its number of tokens as the weight; ``weight_norm``, ‖W + Δ‖ / ‖W‖, and ``weight_change``, ‖Δ‖ / ‖W‖, of a weight.
        """
        generation = self._generation_metrics(target, requests.head(self.settings.generation_requests))
        rows = [*generation, *_weight_norms(target.model, deltas)]
        if perplexity and self.texts:
            nats = text_losses(target.model, target.tokenizer, list(self.texts.values()))
            texts = zip(self.texts, nats["nats"], nats["tokens"], strict=True)
            rows += [("nll", text_id, nll, float(n_tokens)) for text_id, nll, n_tokens in texts]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _generation_metrics(self, target: EditableModel, requests: pd.DataFrame) -> list[tuple[str, str, float, float]]:
        prompts = [
            (request.edit_id, prompt) for request in requests.itertuples() for prompt in request.generation_prompts
        ]
        if not prompts:
            return []
        texts = generate_texts(
            target.model,
            target.tokenizer,
            [prompt for _, prompt in prompts],
            max_new_tokens=self.settings.max_new_tokens,
        )
        by_edit: dict[str, list[str]] = {}
        for (edit_id, _), text in zip(prompts, texts, strict=True):
            by_edit.setdefault(edit_id, []).append(text)
        rows = [
            ("fluency", edit_id, float(np.mean([ngram_entropy(text) for text in generated])), 1.0)
            for edit_id, generated in by_edit.items()
        ]
        references = {edit_id: list(self.references.get(edit_id, ())) for edit_id in by_edit}
        idf = inverse_document_frequencies([text for group in references.values() for text in group])
        return rows + [
            ("consistency", edit_id, tfidf_similarity(" ".join(generated), " ".join(references[edit_id]), idf), 1.0)
            for edit_id, generated in by_edit.items()
            if references[edit_id]
        ]


NO_METRICS = EditMetrics(EditEvaluation(), {}, {})


def perplexity_texts(documents: pd.DataFrame, subjects: set[str], settings: EditEvaluation) -> dict[str, str]:
    """Texts for perplexity by document: held-out ones, if there are any, that mention no edited subject.

    Args:
        documents: a corpus.
        subjects: entities with an edit.
        settings: the number of documents, which are sampled at random.
    """
    rows = documents[documents["split"] != "train"] if (documents["split"] != "train").any() else documents
    rows = rows[rows["entity_ids"].map(subjects.isdisjoint).astype(bool)]
    sample = random.Random("held out").sample(range(len(rows)), min(len(rows), settings.perplexity_documents))
    return dict(zip(rows["doc_id"].iloc[sample], rows["text"].iloc[sample], strict=True))


def reference_texts(requests: pd.DataFrame, documents: pd.DataFrame, *, max_texts: int = 5) -> dict[str, list[str]]:
    """Texts by edit that state the new value about other subjects: given with the request, or documents of a corpus."""
    reference_fact_ids = {fact_id for fact_ids in requests["reference_fact_ids"] for fact_id in fact_ids}
    text_of: dict[str, str] = {}
    for text, fact_ids in zip(documents["text"], documents["fact_ids"], strict=True):
        for fact_id in reference_fact_ids.intersection(fact_ids) - text_of.keys():
            text_of[fact_id] = text
    return {
        request.edit_id: [
            *request.reference_texts,
            *(text_of[fact_id] for fact_id in request.reference_fact_ids if fact_id in text_of),
        ][:max_texts]
        for request in requests.itertuples()
    }


@torch.inference_mode()
def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    top_k: int = 5,
    seed: int = 0,
) -> list[str]:
    """Texts that continue prompts, sampled from the ``top_k`` most probable tokens, as in CounterFact.

    The sample depends on the seed and the prompt's index alone. A text ends with the end-of-text token.
    """
    rows = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    length, pad_token_id, device = max(map(len, rows)), tokenizer.pad_token_id or 0, model.device
    ids = torch.tensor([[pad_token_id] * (length - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    uniform = torch.from_numpy(np.random.default_rng(seed).random((len(rows), max_new_tokens))).to(device)
    cache, sampled = DynamicCache(config=model.config), []
    for step in range(max_new_tokens):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        top_logits, tokens = logits.double().topk(min(top_k, logits.shape[-1]))
        below_uniform = top_logits.softmax(-1).cumsum(-1) < uniform[:, step, None]
        ids = tokens.gather(1, below_uniform.sum(1, keepdim=True).clamp(max=tokens.shape[1] - 1))
        sampled.append(ids)
        mask, position_ids = torch.cat([mask, torch.ones_like(ids)], 1), position_ids[:, -1:] + 1
    eos, texts = tokenizer.eos_token_id, []
    for row, new in zip(rows, torch.cat(sampled, 1).tolist(), strict=True):
        texts.append(tokenizer.decode(row + (new[: new.index(eos)] if eos in new else new), skip_special_tokens=True))
    return texts


def ngram_entropy(text: str) -> float:
    """Fluency as n-gram entropy (Meng et al. 2022): 1/3 of the bigram entropy plus 2/3 of the trigram entropy, in bits.

    Published tables multiply it by 100. It is 0 for a text without trigrams.
    """

    def entropy(n: int) -> float:
        words = text.split()
        counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
        total = sum(counts.values())
        return -sum(count / total * math.log2(count / total) for count in counts.values()) if total else 0.0

    return entropy(2) / 3 + 2 * entropy(3) / 3


def inverse_document_frequencies(texts: Sequence[str]) -> dict[str, float]:
    """ln((1 + n) / (1 + texts with the word)) + 1, by word."""
    n_texts_with = Counter(word for text in texts for word in set(_words(text)))
    return {word: math.log((1 + len(texts)) / (1 + count)) + 1 for word, count in n_texts_with.items()}


def tfidf_similarity(text: str, reference: str, idf: Mapping[str, float]) -> float:
    """Cosine of the TF-IDF vectors of two texts, over the words in ``idf`` (CounterFact's consistency)."""
    first, second = (
        {word: count * idf[word] for word, count in Counter(_words(part)).items() if word in idf}
        for part in (text, reference)
    )
    norm = math.hypot(*first.values()) * math.hypot(*second.values())
    return sum(value * second.get(word, 0.0) for word, value in first.items()) / norm if norm else 0.0


def _words(text: str) -> list[str]:
    return [word for word in (part.strip(".,;:!?\"'()").lower() for part in text.split()) if word]


def _weight_norms(model: PreTrainedModel, deltas: Deltas) -> list[tuple[str, str, float, float]]:
    """Norms of edited weights and of their changes, relative to the original weights; the model holds the changes."""
    parameters, rows = dict(model.named_parameters()), []
    for name, delta in deltas.items():
        weight, delta = parameters[name].detach().double(), delta.double().to(parameters[name].device)
        original_norm = (weight - delta).norm().item()
        rows.append(("weight_norm", name, weight.norm().item() / original_norm, 1.0))
        rows.append(("weight_change", name, delta.norm().item() / original_norm, 1.0))
    return rows
