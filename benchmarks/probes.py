"""Probes per second: the engine against one probe at a time, on SmolLM2 and on the default architecture."""

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


def default() -> tuple[Any, Any, pd.DataFrame]:
    """The default architecture with random weights, its tokenizer, and the default world's probes."""
    settings = config.read_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    model = settings.models["people-pieces"]
    made = world.build_world(settings.worlds[model.world])
    texts = corpus.render_documents(settings.corpora[model.training.corpus], made)["text"]
    tokenizer = tokenizers.train_tokenizer(settings.tokenizers[model.tokenizer], texts, made)
    return models.initialize_model(model.source, tokenizer, seed=0), tokenizer, made.probes


def smollm2() -> tuple[Any, Any, pd.DataFrame]:
    """SmolLM2-135M from its package, and the probes of the world ``countries``."""
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    settings["models"] |= yaml.safe_load((ROOT / "config/smollm2.yaml").read_text())["models"]
    checked = config.read_config(settings)
    return *models.load_source(checked.models["smollm2"].source), world.build_world(checked.worlds["countries"]).probes


def one_at_a_time(model: Any, tokenizer: Any, probes: pd.DataFrame) -> list[float]:
    """Losses of the targets; candidates and the text that greedy decoding writes are computed too, one by one."""
    losses = []
    with torch.inference_mode():
        for probe in probes.itertuples():
            start = tokenizer(probe.prompt)["input_ids"]
            answers = [probe.target, *(other for other in probe.candidates if other != probe.target)]
            scores = [_log_p(model, start, tokenizer(f"{probe.prompt} {answer}")["input_ids"]) for answer in answers]
            model.generate(
                torch.tensor([start]), attention_mask=torch.ones(1, len(start), dtype=torch.long),
                do_sample=False, max_new_tokens=8, pad_token_id=0,
            )  # fmt: skip
            losses.append(-scores[0])
    return losses


def _log_p(model: Any, start: list[int], whole: list[int]) -> float:
    logits = model(torch.tensor([whole])).logits[0, len(start) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(whole[len(start) :])[:, None]).sum().item()


def compare(name: str, model: Any, tokenizer: Any, probes: pd.DataFrame, slow: int) -> None:
    """Print one row; the slow way does the first few probes only."""
    began = time.perf_counter()
    scores = score_probes(model, tokenizer, probes)
    fast = len(probes) / (seconds := time.perf_counter() - began)
    began = time.perf_counter()
    losses = one_at_a_time(model, tokenizer, few := probes.head(slow))
    one = len(few) / (time.perf_counter() - began)
    kept = scores["representable"].to_numpy()[:slow]
    differ = np.abs(np.array(losses)[kept] - scores["loss_nats"].head(slow)[kept].astype(float)).max()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name:16}{len(probes):8}{seconds:9.1f}{fast:10.1f}{one:18.2f}{fast / one:8.1f}{differ:12.0e}{peak:10.2f}",
        flush=True,
    )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=20, help="probes that are also asked one at a time")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads; the slow way was timed on {arguments.slow} probes")
    print(
        f"{'':16}{'probes':>8}{'seconds':>9}{'per s':>10}{'one by one, per s':>18}{'ratio':>8}{'difference':>12}{'peak GB':>10}"
    )
    for name, make in (("people-pieces", default), ("SmolLM2-135M", smollm2)):
        model, tokenizer, probes = make()
        drawn = probes.sample(min(arguments.probes, len(probes)), random_state=0).reset_index(drop=True)
        compare(name, model, tokenizer, drawn, arguments.slow)


if __name__ == "__main__":
    main()
