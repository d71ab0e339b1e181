"""Sampled tokens per second: our batched sampler against `generate()`, one by one and batched, on the default model."""

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


def generate_batched(
    model: Any, tokenizer: Any, prompts: list[list[int]], batch_size: int, **options: Any
) -> list[list[int]]:
    """Texts from `generate()` in batches, truncated after the end-of-sequence token."""
    texts, eos_token_id = [], tokenizer.eos_token_id
    for start in range(0, len(prompts), batch_size):
        rows = prompts[start : start + batch_size]
        length = max(map(len, rows))
        ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        generated = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=96, pad_token_id=eos_token_id, eos_token_id=eos_token_id, **options
        )[:, length:].tolist()  # fmt: skip
        texts += [row[: row.index(eos_token_id) + 1] if eos_token_id in row else row for row in generated]
    return texts


def time_and_print(name: str, generate: Callable[[], list[list[int]]]) -> list[list[int]]:
    """Print one row."""
    start = time.process_time()
    texts = generate()
    seconds, tokens = time.process_time() - start, sum(map(len, texts))
    print(f"{name:40}{len(texts):7}{tokens:9}{seconds:9.2f}{tokens / seconds:10.0f}", flush=True)
    return texts


def main() -> None:
    """Print one table for sampling and one for greedy decoding, from prompts of different lengths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="results/models/people-pieces/seed-0")
    parser.add_argument("--documents", default="results/corpora/people/documents.parquet")
    parser.add_argument("--texts", type=int, default=480)
    parser.add_argument("--slow", type=int, default=20, help="number of texts that are also generated one by one")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, tokenizer = models.load_model(arguments.model)
    texts = corpus.read_documents(arguments.documents)["text"].head(arguments.texts)
    ids = tokenizer(texts.tolist())["input_ids"]
    prompts = [row[: 1 + i % 8] for i, row in enumerate(ids)]
    print(f"{arguments.threads} threads, processor seconds")
    print(f"{'':40}{'texts':>7}{'tokens':>9}{'seconds':>9}{'per s':>10}")
    for method, options in (("sample", {"do_sample": True, "top_k": 0}), ("greedy", {"do_sample": False})):
        ours = time_and_print(
            f"{method}: ours", lambda m=method: sample_texts(model, tokenizer, prompts, Sampler(method=m), seed=0)
        )
        time_and_print(
            f"{method}: generate(), batches of 64",
            lambda o=options: generate_batched(model, tokenizer, prompts, 64, **o),
        )
        time_and_print(
            f"{method}: generate(), one batch",
            lambda o=options: generate_batched(model, tokenizer, prompts, len(prompts), **o),
        )
        first_prompts = prompts[: arguments.slow]
        one_by_one = time_and_print(
            f"{method}: generate(), one by one",
            lambda f=first_prompts, o=options: generate_batched(model, tokenizer, f, 1, **o),
        )
        if method == "greedy":
            print(
                f"greedy texts that differ: {sum(a != b for a, b in zip(ours, one_by_one, strict=False))} of {len(one_by_one)}"
            )


if __name__ == "__main__":
    main()
