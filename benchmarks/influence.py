"""Time for inner products of gradients: ``influence.gradients``, Kronfluence without a Hessian, and Bergson.

All three score the same queries and documents of the default scenario with the same model and losses, in turn. CPU seconds
of the whole call, from tokenized texts to scores, with the model in memory; Bergson loads the model from its folder.
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

MODEL, BATCH_TOKENS = "functions", 2048


def load_inputs(folder: Path) -> model_based.RankingInputs:
    """Queries and documents of the default scenario, and the model in the folder, which is initialised if it is missing."""
    settings = config.read_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    model, influence_settings = settings.models[MODEL], settings.influence.models[MODEL]
    functions = world.build_world(settings.worlds[model.world])
    documents = corpus.render_documents(settings.corpora[model.training.corpus], functions)
    if not (folder / "config.json").exists():
        tokenizer = tokenizers.train_tokenizer(settings.tokenizers[model.tokenizer], documents["text"], functions)
        models.save_model(models.initialize_model(model.source, tokenizer, seed=0), tokenizer, folder)
    queries = influence.select_queries(functions, influence_settings)
    ranked_documents = influence.select_documents(documents, queries, influence_settings)
    return model_based.load_ranking_inputs(
        folder, queries, ranked_documents, model_based.fact_values(functions), "answer_tokens"
    )


def ours(folder: Path, inputs: model_based.RankingInputs) -> np.ndarray:
    """Our exact products."""
    names = list(map(str, range(len(inputs.queries))))
    queries = gradients.QueryGradients(
        inputs.model, inputs.queries, ["blocks"], pad=inputs.pad, batch_tokens=BATCH_TOKENS, names=names
    )
    return queries.dot_products(inputs.documents, norms=False)[0]


def kronfluence(folder: Path, inputs: model_based.RankingInputs) -> np.ndarray:
    """Kronfluence with strategy ``identity``."""
    settings = Kronfluence(kind="kronfluence", strategy="identity", unit_normalize=False)
    return kronfluence_backend.rank_with_kronfluence(inputs, settings, batch_tokens=BATCH_TOKENS)


def bergson(folder: Path, inputs: model_based.RankingInputs) -> np.ndarray:
    """Bergson without projection."""
    return bergson_backend.rank_with_bergson(
        folder, inputs, Bergson(kind="bergson", method="dot", projection_dim=0), batch_tokens=BATCH_TOKENS
    )


def measure(
    method: Callable[[Path, model_based.RankingInputs], np.ndarray], folder: Path, inputs: model_based.RankingInputs
) -> tuple[float, np.ndarray]:
    """CPU seconds and scores."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        scores = method(folder, inputs)
    return time.process_time() - start, scores


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a trained model; omit for new weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)

    methods = (ours, kronfluence, bergson)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.model or Path(temporary)
        inputs = load_inputs(folder)
        rounds = [[measure(method, folder, inputs) for method in methods] for _ in range(arguments.rounds)]

    print(
        f"{MODEL}: {inputs.model.num_parameters():,} parameters, {len(inputs.queries)} queries, {len(inputs.documents)} documents\n"
    )
    print(f"{'':12}{'seconds':>9}{'min':>9}{'max':>9}{'times ours':>12}{'Pearson':>18}")
    reference = rounds[0][0][1].ravel()
    for i, method in enumerate(methods):
        seconds = [results[i][0] for results in rounds]
        ratio = statistics.median(results[i][0] / results[0][0] for results in rounds)
        pearson = np.corrcoef(reference, rounds[0][i][1].ravel())[0, 1]
        print(
            f"{method.__name__:12}{statistics.median(seconds):9.2f}{min(seconds):9.2f}{max(seconds):9.2f}{ratio:12.2f}{pearson:18.12f}"
        )


if __name__ == "__main__":
    main()
