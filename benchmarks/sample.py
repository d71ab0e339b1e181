"""Tokens per second: writing in batches against `generate()`, one prompt at a time and batched, on the default model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from factlife import corpus, models  # noqa: E402
from factlife.collapse.sampling import sample_texts  # noqa: E402
from factlife.config.collapse import Sampler  # noqa: E402


def generated(model: Any, tokenizer: Any, prompts: list[list[int]], size: int, **how: Any) -> list[list[int]]:
    """What `generate()` writes after prompts, in batches of a size, without what it writes after a text's end."""
    found, end = [], tokenizer.eos_token_id
    for start in range(0, len(prompts), size):
        rows = prompts[start : start + size]
        length = max(map(len, rows))
        ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        new = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=96, pad_token_id=end, eos_token_id=end, **how
        )[:, length:].tolist()  # fmt: skip
        found += [row[: row.index(end) + 1] if end in row else row for row in new]
    return found


def timed(name: str, write: Callable[[], list[list[int]]]) -> list[list[int]]:
    """Print one row."""
    began = time.process_time()
    texts = write()
    seconds, tokens = time.process_time() - began, sum(map(len, texts))
    print(f"{name:40}{len(texts):7}{tokens:9}{seconds:9.2f}{tokens / seconds:10.0f}", flush=True)
    return texts


def main() -> None:
    """Print one table for drawing and one for greedy writing, from prompts of different lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="results/models/people-pieces/seed-0")
    parser.add_argument("--documents", default="results/corpora/people/documents.parquet")
    parser.add_argument("--texts", type=int, default=480)
    parser.add_argument("--slow", type=int, default=20, help="texts that are also written one at a time")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, tokenizer = models.load_model(arguments.model)
    texts = corpus.read_documents(arguments.documents)["text"].head(arguments.texts)
    ids = tokenizer(texts.tolist())["input_ids"]
    prompts = [row[: 1 + number % 8] for number, row in enumerate(ids)]
    print(f"{arguments.threads} threads, processor seconds")
    print(f"{'':40}{'texts':>7}{'tokens':>9}{'seconds':>9}{'per s':>10}")
    for method, how in (("sample", {"do_sample": True, "top_k": 0}), ("greedy", {"do_sample": False})):
        fast = timed(
            f"{method}: ours", lambda m=method: sample_texts(model, tokenizer, prompts, Sampler(method=m), seed=0)
        )
        timed(f"{method}: generate(), batches of 64", lambda h=how: generated(model, tokenizer, prompts, 64, **h))
        timed(f"{method}: generate(), one batch", lambda h=how: generated(model, tokenizer, prompts, len(prompts), **h))
        few = prompts[: arguments.slow]
        slow = timed(
            f"{method}: generate(), one at a time", lambda f=few, h=how: generated(model, tokenizer, f, 1, **h)
        )
        if method == "greedy":
            print(f"greedy texts that differ: {sum(a != b for a, b in zip(fast, slow, strict=False))} of {len(slow)}")


if __name__ == "__main__":
    main()
