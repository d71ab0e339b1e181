"""Lexical rankers, which use word overlap and no model: the baseline for all other rankers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from factlife.config.influence import Bm25, CustomRanker, Random, Tfidf
from factlife.influence.retrieval_metrics import rank_documents


def split_words(text: str) -> list[str]:
    """Lower-case words; names such as ``<B01>`` are one word."""
    return re.findall(r"<\w+>|\w+", text.lower())


def rank_lexical(
    settings: Random | Bm25 | Tfidf | CustomRanker, queries: pd.DataFrame, documents: pd.DataFrame
) -> np.ndarray:
    """Scores, (queries, documents), of a ranker that needs no model."""
    if isinstance(settings, CustomRanker):
        return settings.rank(queries, documents)
    query_texts = queries["prompt"].tolist()
    if getattr(settings, "include_answer", False):
        query_texts = [f"{prompt} {answer}" for prompt, answer in zip(query_texts, queries["completion"], strict=True)]
    document_texts = documents["text"].tolist()
    match settings:
        case Random():
            return np.random.default_rng(settings.seed).random((len(query_texts), len(document_texts)))
        case Bm25():
            return bm25_scores(query_texts, document_texts, settings)
        case Tfidf():
            return tfidf_scores(query_texts, document_texts)


def bm25_scores(queries: Sequence[str], documents: Sequence[str], settings: Bm25) -> np.ndarray:
    """BM25 scores (Robertson and Zaragoza 2009, in Lucene's form), optionally with pseudo-relevance feedback.

    Feedback (Rocchio 1971): from the ``feedback_documents`` best documents, take the ``feedback_terms`` words that are not
    in the query and have the largest summed BM25 weight there. Add them to the query and score the documents again.
    """
    document_words = [split_words(text) for text in documents]
    index = bm25s.BM25(k1=settings.k1, b=settings.b)
    index.index(document_words, show_progress=False)
    rows = []
    for query in queries:
        terms = [word for word in split_words(query) if word in index.vocab_dict]
        scores = _scores(index, terms, len(documents))
        if settings.feedback_terms:
            best = rank_documents(scores[None])[0, : settings.feedback_documents]
            candidates = sorted({word for i in best for word in document_words[i]} - set(terms))
            weights = {word: _scores(index, [word], len(documents))[best].sum() for word in candidates}
            feedback = sorted(candidates, key=lambda word: -weights[word])[: settings.feedback_terms]
            scores = _scores(index, terms + feedback, len(documents))
        rows.append(scores)
    return np.stack(rows)


def _scores(index: bm25s.BM25, terms: list[str], n_documents: int) -> np.ndarray:
    return index.get_scores(terms) if terms else np.zeros(n_documents, dtype=np.float32)


def tfidf_scores(queries: Sequence[str], documents: Sequence[str]) -> np.ndarray:
    """Cosine of term frequencies weighted by inverse document frequency (Salton and Buckley 1988)."""
    vectorizer = TfidfVectorizer(analyzer=split_words)
    document_vectors = vectorizer.fit_transform(documents)
    return (vectorizer.transform(queries) @ document_vectors.T).toarray()
