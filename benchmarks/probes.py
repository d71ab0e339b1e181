"""Probes per second: the probe engine against one sequence at a time, on SmolLM2 and the default architecture."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from factlife import config, corpus, models, world  # noqa: E402
from factlife.corpus import tokenizers  # noqa: E402
from factlife.recall.score import score_probes  # noqa: E402


def default_model() -> tuple[Any, Any, pd.DataFrame]:
    """The default architecture with random weights, its tokenizer, and the default world's probes."""
    settings = config.read_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    model = settings.models["people-pieces"]
    built_world = world.build_world(settings.worlds[model.world])
    texts = corpus.render_documents(settings.corpora[model.training.corpus], built_world)["text"]
    tokenizer = tokenizers.train_tokenizer(settings.tokenizers[model.tokenizer], texts, built_world)
    return models.initialize_model(model.source, tokenizer, seed=0), tokenizer, built_world.probes


def smollm2() -> tuple[Any, Any, pd.DataFrame]:
    """SmolLM2-135M from its package, and the probes of the world ``countries``."""
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    settings["models"] |= yaml.safe_load((ROOT / "config/smollm2.yaml").read_text())["models"]
    checked = config.read_config(settings)
    return *models.load_source(checked.models["smollm2"].source), world.build_world(checked.worlds["countries"]).probes


def score_one_by_one(model: Any, tokenizer: Any, probes: pd.DataFrame) -> list[float]:
    """Losses of the targets; also scores all candidates and generates greedily, one sequence at a time."""
    losses = []
    with torch.inference_mode():
        for probe in probes.itertuples():
            prompt_ids = tokenizer(probe.prompt)["input_ids"]
            answers = [probe.target, *(other for other in probe.candidates if other != probe.target)]
            scores = [
                _log_prob(model, prompt_ids, tokenizer(f"{probe.prompt} {answer}")["input_ids"]) for answer in answers
            ]
            model.generate(
                torch.tensor([prompt_ids]), attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
                do_sample=False, max_new_tokens=8, pad_token_id=0,
            )  # fmt: skip
            losses.append(-scores[0])
    return losses


def _log_prob(model: Any, prompt_ids: list[int], full_ids: list[int]) -> float:
    logits = model(torch.tensor([full_ids])).logits[0, len(prompt_ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(full_ids[len(prompt_ids) :])[:, None]).sum().item()


def compare(name: str, model: Any, tokenizer: Any, probes: pd.DataFrame, n_one_by_one: int) -> None:
    """Print one row; only the first probes are also scored one by one."""
    start = time.perf_counter()
    scores = score_probes(model, tokenizer, probes)
    engine_speed = len(probes) / (seconds := time.perf_counter() - start)
    start = time.perf_counter()
    losses = score_one_by_one(model, tokenizer, first_probes := probes.head(n_one_by_one))
    one_by_one_speed = len(first_probes) / (time.perf_counter() - start)
    representable = scores["representable"].to_numpy()[:n_one_by_one]
    difference = np.abs(
        np.array(losses)[representable] - scores["loss_nats"].head(n_one_by_one)[representable].astype(float)
    ).max()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name:16}{len(probes):8}{seconds:9.1f}{engine_speed:10.1f}{one_by_one_speed:18.2f}{engine_speed / one_by_one_speed:8.1f}{difference:12.0e}{peak:10.2f}",
        flush=True,
    )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=20, help="number of probes that are also scored one by one")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads; one by one was timed on {arguments.slow} probes")
    print(
        f"{'':16}{'probes':>8}{'seconds':>9}{'per s':>10}{'one by one, per s':>18}{'ratio':>8}{'difference':>12}{'peak GB':>10}"
    )
    for name, load in (("people-pieces", default_model), ("SmolLM2-135M", smollm2)):
        model, tokenizer, probes = load()
        sample = probes.sample(min(arguments.probes, len(probes)), random_state=0).reset_index(drop=True)
        compare(name, model, tokenizer, sample, arguments.slow)


if __name__ == "__main__":
    main()
