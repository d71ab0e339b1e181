"""What edits do to a model beyond its answers: the texts it writes, how well it reads, how far its weights move."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import DynamicCache

from factlife.config.editing import EditEvaluation
from factlife.editing.editable import Deltas, EditableModel
from factlife.recall.perplexity import text_losses

COLUMNS = ["metric", "item", "value", "weight"]


@dataclass(frozen=True)
class EditMetrics:
    """What is measured, and on what.

    Attributes:
        settings: how much.
        texts: that are read for perplexity, by id.
        references: texts by edit that tell what is to be found in those that the model writes about it.
    """

    settings: EditEvaluation
    texts: Mapping[str, str]
    references: Mapping[str, Sequence[str]]

    def __call__(
        self, target: EditableModel, requests: pd.DataFrame, deltas: Deltas, *, whole: bool = True
    ) -> pd.DataFrame:
        """Measure a model as it is.

        Args:
            target: the model, with the changes in its weights.
            requests: those that were written; texts are written about the first of them.
            deltas: the changes.
            whole: read texts for perplexity too.

        Returns:
            One row per thing, columns ``COLUMNS``: ``fluency`` and ``consistency`` of an edit; ``nll`` of a text, whose
            weight is its number of tokens; ``weight_norm``, ‖W + Δ‖ / ‖W‖, and ``weight_change``, ‖Δ‖ / ‖W‖, of a weight.
        """
        rows = [
            *self._written(target, requests.head(self.settings.generation_requests)),
            *_weight_norms(target.model, deltas),
        ]
        if whole and self.texts:
            nats = text_losses(target.model, target.tokenizer, list(self.texts.values()))
            read = zip(self.texts, nats["nats"], nats["tokens"], strict=True)
            rows += [("nll", item, value, float(tokens)) for item, value, tokens in read]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _written(self, target: EditableModel, requests: pd.DataFrame) -> list[tuple[str, str, float, float]]:
        asked = [(one.edit_id, prompt) for one in requests.itertuples() for prompt in one.generation_prompts]
        if not asked:
            return []
        texts = generate_texts(
            target.model, target.tokenizer, [prompt for _, prompt in asked], new_tokens=self.settings.max_new_tokens
        )
        by_edit: dict[str, list[str]] = {}
        for (edit, _), text in zip(asked, texts, strict=True):
            by_edit.setdefault(edit, []).append(text)
        rows = [
            ("fluency", edit, float(np.mean([ngram_entropy(one) for one in said])), 1.0)
            for edit, said in by_edit.items()
        ]
        known = {edit: list(self.references.get(edit, ())) for edit in by_edit}
        weights = inverse_document_frequencies([text for one in known.values() for text in one])
        return rows + [
            ("consistency", edit, tfidf_similarity(" ".join(said), " ".join(known[edit]), weights), 1.0)
            for edit, said in by_edit.items()
            if known[edit]
        ]


NO_METRICS = EditMetrics(EditEvaluation(), {}, {})


def perplexity_texts(documents: pd.DataFrame, subjects: set[str], settings: EditEvaluation) -> dict[str, str]:
    """Texts for perplexity, by document: of those held out, where there are any, and that mention no edited subject.

    Args:
        documents: a corpus.
        subjects: entities with an edit.
        settings: how many documents, drawn at random.
    """
    rows = documents[documents["split"] != "train"] if (documents["split"] != "train").any() else documents
    rows = rows[rows["entity_ids"].map(subjects.isdisjoint).astype(bool)]
    chosen = random.Random("held out").sample(range(len(rows)), min(len(rows), settings.perplexity_documents))
    return dict(zip(rows["doc_id"].iloc[chosen], rows["text"].iloc[chosen], strict=True))


def reference_texts(requests: pd.DataFrame, documents: pd.DataFrame, *, most: int = 5) -> dict[str, list[str]]:
    """Texts by edit that state the edit's new value about others: given with the request, or documents of a corpus."""
    wanted = {fact for facts in requests["reference_fact_ids"] for fact in facts}
    stating: dict[str, str] = {}
    for text, facts in zip(documents["text"], documents["fact_ids"], strict=True):
        for fact in wanted.intersection(facts) - stating.keys():
            stating[fact] = text
    return {
        one.edit_id: [*one.reference_texts, *(stating[fact] for fact in one.reference_fact_ids if fact in stating)][
            :most
        ]
        for one in requests.itertuples()
    }


@torch.inference_mode()
def generate_texts(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, new_tokens: int, top_k: int = 5, seed: int = 0
) -> list[str]:
    """Texts that begin with prompts, drawn from the ``top_k`` most probable tokens, as CounterFact's are.

    What is drawn depends on the seed and the prompt's number alone. A text ends with the end-of-text token.
    """
    rows = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    length, fill, device = max(map(len, rows)), tokenizer.pad_token_id or 0, model.device
    ids = torch.tensor([[fill] * (length - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    uniform = torch.from_numpy(np.random.default_rng(seed).random((len(rows), new_tokens))).to(device)
    cache, written = DynamicCache(config=model.config), []
    for place in range(new_tokens):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        best, tokens = logits.double().topk(min(top_k, logits.shape[-1]))
        passed = best.softmax(-1).cumsum(-1) < uniform[:, place, None]
        ids = tokens.gather(1, passed.sum(1, keepdim=True).clamp(max=tokens.shape[1] - 1))
        written.append(ids)
        mask, positions = torch.cat([mask, torch.ones_like(ids)], 1), positions[:, -1:] + 1
    end, texts = tokenizer.eos_token_id, []
    for row, new in zip(rows, torch.cat(written, 1).tolist(), strict=True):
        texts.append(tokenizer.decode(row + (new[: new.index(end)] if end in new else new), skip_special_tokens=True))
    return texts


def ngram_entropy(text: str) -> float:
    """n-gram entropy (Meng et al. 2022): a third of the pairs' plus two thirds of the triples', in bits.

    Published tables give a hundred times this. 0 for a text without triples.
    """

    def entropy(n: int) -> float:
        words = text.split()
        counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
        total = sum(counts.values())
        return -sum(count / total * math.log2(count / total) for count in counts.values()) if total else 0.0

    return entropy(2) / 3 + 2 * entropy(3) / 3


def inverse_document_frequencies(texts: Sequence[str]) -> dict[str, float]:
    """ln((1 + n) / (1 + texts with the word)) + 1, by word."""
    found = Counter(word for text in texts for word in set(_words(text)))
    return {word: math.log((1 + len(texts)) / (1 + count)) + 1 for word, count in found.items()}


def tfidf_similarity(one: str, other: str, weights: Mapping[str, float]) -> float:
    """Cosine of two texts' counts of the words that have a weight, each times it (CounterFact's consistency)."""
    first, second = (
        {word: count * weights[word] for word, count in Counter(_words(text)).items() if word in weights}
        for text in (one, other)
    )
    length = math.hypot(*first.values()) * math.hypot(*second.values())
    return sum(value * second.get(word, 0.0) for word, value in first.items()) / length if length else 0.0


def _words(text: str) -> list[str]:
    return [word for word in (part.strip(".,;:!?\"'()").lower() for part in text.split()) if word]


def _weight_norms(model: Any, deltas: Deltas) -> list[tuple[str, str, float, float]]:
    """Norms of changed weights, which hold the changes, against those from before."""
    parameters, rows = dict(model.named_parameters()), []
    for name, change in deltas.items():
        now, change = parameters[name].detach().double(), change.double().to(parameters[name].device)
        before = (now - change).norm().item()
        rows.append(("weight_norm", name, now.norm().item() / before, 1.0))
        rows.append(("weight_change", name, change.norm().item() / before, 1.0))
    return rows
