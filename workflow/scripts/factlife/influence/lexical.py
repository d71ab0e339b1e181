"""Rankers that read words and no model: what any other ranker must beat."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from factlife.config.influence import Bm25, Random, Tfidf
from factlife.influence.retrieval_metrics import rank_documents


def split_words(text: str) -> list[str]:
    """Lower-case words, with names such as ``<B01>`` whole."""
    return re.findall(r"<\w+>|\w+", text.lower())


def rank_lexical(settings: Random | Bm25 | Tfidf, queries: pd.DataFrame, documents: pd.DataFrame) -> np.ndarray:
    """Scores, (queries, documents), of a ranker that needs no model."""
    search_texts = queries["prompt"].tolist()
    if getattr(settings, "include_answer", False):
        search_texts = [
            f"{prompt} {answer}" for prompt, answer in zip(search_texts, queries["completion"], strict=True)
        ]
    texts = documents["text"].tolist()
    match settings:
        case Random():
            return np.random.default_rng(settings.seed).random((len(search_texts), len(texts)))
        case Bm25():
            return bm25_scores(search_texts, texts, settings)
        case Tfidf():
            return tfidf_scores(search_texts, texts)


def bm25_scores(queries: Sequence[str], documents: Sequence[str], settings: Bm25) -> np.ndarray:
    """BM25 (Robertson and Zaragoza 2009, in Lucene's form), with feedback words of the best documents added.

    Feedback: of the words in the ``feedback_documents`` best documents, those ``feedback_terms`` that weigh most there
    in sum and are not in the query join it, and the documents are scored once more (Rocchio 1971).
    """
    split = [split_words(text) for text in documents]
    index = bm25s.BM25(k1=settings.k1, b=settings.b)
    index.index(split, show_progress=False)
    known = index.vocab_dict
    found = []
    for query in queries:
        terms = [word for word in split_words(query) if word in known]
        scores = _scores(index, terms, len(split))
        if settings.feedback_terms:
            best = rank_documents(scores[None])[0, : settings.feedback_documents]
            others = sorted({word for place in best for word in split[place]} - set(terms))
            weight = {word: _scores(index, [word], len(split))[best].sum() for word in others}
            added = sorted(others, key=lambda word: -weight[word])[: settings.feedback_terms]
            scores = _scores(index, terms + added, len(split))
        found.append(scores)
    return np.stack(found)


def _scores(index: bm25s.BM25, terms: list[str], documents: int) -> np.ndarray:
    return index.get_scores(terms) if terms else np.zeros(documents, dtype=np.float32)


def tfidf_scores(queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
    """Cosine of term frequencies weighted by inverse document frequency (Salton and Buckley 1988)."""
    vectorizer = TfidfVectorizer(analyzer=split_words)
    columns = vectorizer.fit_transform(documents)
    return (vectorizer.transform(queries) @ columns.T).toarray()
