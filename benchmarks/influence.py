"""Seconds for plain products of gradients: ``influence.gradients`` against Kronfluence without curvature and Bergson.

All three score the same queries and documents of the default world for the same model and losses, in turn. CPU seconds of
the whole call from texts as tokens to scores, of a model in memory; Bergson reads the model from its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from factlife import config, corpus, influence, models, world  # noqa: E402
from factlife.config.influence import Bergson, Kronfluence  # noqa: E402
from factlife.corpus import tokenizers  # noqa: E402
from factlife.influence import bergson_backend, gradients, kronfluence_backend, model_based  # noqa: E402

NAME, BATCH = "functions", 2048


def prepared(folder: Path) -> model_based.RankingInputs:
    """The default config's queries and documents about functions, and a model: the one in the folder, or one made there."""
    settings = config.read_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    model, attribution = settings.models[NAME], settings.influence.models[NAME]
    made = world.build_world(settings.worlds[model.world])
    documents = corpus.render_documents(settings.corpora[model.training.corpus], made)
    if not (folder / "config.json").exists():
        tokenizer = tokenizers.train_tokenizer(settings.tokenizers[model.tokenizer], documents["text"], made)
        models.save_model(models.initialize_model(model.source, tokenizer, seed=0), tokenizer, folder)
    queries = influence.select_queries(made, attribution)
    ranked = influence.select_documents(documents, queries, attribution)
    return model_based.load_ranking_inputs(folder, queries, ranked, model_based.fact_values(made), "answer_tokens")


def ours(folder: Path, found: model_based.RankingInputs) -> np.ndarray:
    """Products of our own."""
    names = list(map(str, range(len(found.queries))))
    queries = gradients.QueryGradients(
        found.model, found.queries, ["blocks"], pad=found.pad, batch_tokens=BATCH, names=names
    )
    return queries.dot_products(found.documents, norms=False)[0]


def kronfluence(folder: Path, found: model_based.RankingInputs) -> np.ndarray:
    """Kronfluence's ``identity``."""
    settings = Kronfluence(kind="kronfluence", strategy="identity", unit_normalize=False)
    return kronfluence_backend.rank_with_kronfluence(found, settings, batch_tokens=BATCH)


def bergson(folder: Path, found: model_based.RankingInputs) -> np.ndarray:
    """Bergson without projection."""
    return bergson_backend.rank_with_bergson(
        folder, found, Bergson(kind="bergson", method="dot", projection_dim=0), batch_tokens=BATCH
    )


def timed(
    run: Callable[[Path, model_based.RankingInputs], np.ndarray], folder: Path, found: model_based.RankingInputs
) -> tuple[float, np.ndarray]:
    """CPU seconds and scores."""
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        scores = run(folder, found)
    return time.process_time() - began, scores


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a trained model; new weights without")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)

    ways = (ours, kronfluence, bergson)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.model or Path(temporary)
        found = prepared(folder)
        rounds = [[timed(way, folder, found) for way in ways] for _ in range(arguments.rounds)]

    print(
        f"{NAME}: {found.model.num_parameters():,} parameters, {len(found.queries)} queries, {len(found.documents)} documents\n"
    )
    print(f"{'':12}{'seconds':>9}{'least':>9}{'most':>9}{'times ours':>12}{'Pearson':>18}")
    reference = rounds[0][0][1].ravel()
    for number, way in enumerate(ways):
        seconds = [one[number][0] for one in rounds]
        ratio = statistics.median(one[number][0] / one[0][0] for one in rounds)
        pearson = np.corrcoef(reference, rounds[0][number][1].ravel())[0, 1]
        print(
            f"{way.__name__:12}{statistics.median(seconds):9.2f}{min(seconds):9.2f}{max(seconds):9.2f}{ratio:12.2f}{pearson:18.12f}"
        )


if __name__ == "__main__":
    main()
