"""Training tokens per second: ``train_model`` against a plain loop over the same model, optimizer and batches.

Both train the default model on the default corpus, in turn, so that other load on the machine affects both equally.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from factlife import config, corpus, models, world  # noqa: E402
from factlife.corpus import tokenizers, tokens  # noqa: E402
from factlife.models.optim import build_optimizer, learning_rate_factor  # noqa: E402
from factlife.models.train import PaddingCollator, data_order  # noqa: E402

NAME, MATRIX = "people-pieces", 2048


def prepare() -> tuple[config.Config, Any, pd.DataFrame]:
    """The default config, and the tokenizer and sequences of its model."""
    settings = config.read_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    model = settings.models[NAME]
    built_world = world.build_world(settings.worlds[model.world])
    documents = corpus.render_documents(settings.corpora[model.training.corpus], built_world)
    tokenizer = tokenizers.train_tokenizer(settings.tokenizers[model.tokenizer], documents["text"], built_world)
    return (
        settings,
        tokenizer,
        tokens.build_sequences(tokens.encode_documents(documents, tokenizer), max_length=model.training.max_length),
    )


class Comparison:
    """Both training loops, over the first steps of the default corpus."""

    def __init__(self, steps: int) -> None:
        settings, self.tokenizer, sequences = prepare()
        self.source = settings.models[NAME].source
        # States and checkpoints are written outside of the timed steps.
        self.training = settings.models[NAME].training.model_copy(
            update={"epochs": 1, "save_steps": 10**6, "checkpoints": 1}
        )
        self.sequences = sequences.head(steps * self.training.batch_size)
        self.steps = steps

    def model(self) -> Any:
        """New weights, the same every time."""
        return models.initialize_model(self.source, self.tokenizer, seed=0)

    def ours(self) -> tuple[float, list[torch.Tensor], float]:
        """Tokens per second between the first and last-but-one logged step; weights; seconds with set-up and saving."""
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                curve = models.train_model(
                    self.model(), self.tokenizer, self.sequences, self.training,
                    seed=0, output=f"{folder}/model", resume=f"{folder}/resume",
                )  # fmt: skip
            total_seconds = time.perf_counter() - start
            weights = load_file(f"{folder}/model/model.safetensors")
        self.first, self.last = curve["step"].iloc[0], curve["step"].iloc[-2]
        tokens, seconds = (curve[column].iloc[-2] - curve[column].iloc[0] for column in ("tokens", "seconds"))
        return tokens / seconds, [weights[name] for name in sorted(weights)], total_seconds

    def plain(self) -> tuple[float, list[torch.Tensor], float]:
        """The same for a plain loop over prepared batches."""
        batches = list(self.batches())
        model = self.model().train()
        optimizer_ = build_optimizer(model, self.training)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer_, lambda step: learning_rate_factor(step, self.steps, self.training)
        )
        tokens, start = 0, time.perf_counter()
        for step, batch in enumerate(batches, 1):
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.training.max_grad_norm)
            optimizer_.step()
            schedule.step()
            optimizer_.zero_grad()
            if step == self.first:
                timer_start = time.perf_counter()
            elif self.first < step <= self.last:
                tokens += int(batch["attention_mask"].sum())
            if step == self.last:
                seconds = time.perf_counter() - timer_start
        weights = dict(model.named_parameters())
        return tokens / seconds, [weights[name].detach() for name in sorted(weights)], time.perf_counter() - start

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches in the order of ``train_model``."""
        lengths = self.sequences["input_ids"].str.len().to_numpy()
        order, size, collate = data_order(lengths, self.training, seed=0), self.training.batch_size, PaddingCollator(0)
        for start in range(0, len(order), size):
            yield collate([self.sequences["input_ids"].iloc[i] for i in order[start : start + size]])


def matmul_flops(repeats: int = 8) -> float:
    """Float32 operations per second of a matrix product."""
    left, right = torch.randn(2, MATRIX, MATRIX)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / min(seconds)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)

    comparison = Comparison(arguments.steps)
    rounds = [(comparison.ours(), comparison.plain()) for _ in range(arguments.rounds)]
    difference = max(
        (a - b).abs().max().item() for ours, plain in rounds for a, b in zip(ours[1], plain[1], strict=True)
    )
    speeds = [(ours[0], plain[0]) for ours, plain in rounds]
    ratios = sorted(ours / plain for ours, plain in speeds)
    flops, parameters = matmul_flops(), comparison.model().num_parameters()

    print(
        f"{NAME}: {parameters:,} parameters, {comparison.last - comparison.first} steps after warm-up, {arguments.threads} threads"
    )
    print(f"largest difference between the final weights: {difference:.1e}")
    print(f"float32 matrix product of {MATRIX}: {flops / 1e9:.1f} GFLOP/s\n")
    print(f"{'':12}{'tokens/s':>10}{'min':>10}{'max':>10}{'of matmul rate':>16}")
    for name, speed in zip(("train_model", "plain loop"), zip(*speeds, strict=True), strict=True):
        median = statistics.median(speed)
        fraction = 6 * parameters * median / flops
        print(f"{name:12}{median:10.0f}{min(speed):10.0f}{max(speed):10.0f}{fraction:16.1%}")
    print(f"\nratio in the same round: median {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}")
    seconds = [statistics.median(a[2] for a in runs) for runs in zip(*rounds, strict=True)]
    print(f"total with set-up and saving: {seconds[0]:.2f} s, plain loop {seconds[1]:.2f} s")


if __name__ == "__main__":
    main()
