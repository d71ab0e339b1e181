"""Seconds of causal tracing, batched and one cell at a time: `python benchmarks/tracing.py MODEL_FOLDER WORLD_FOLDER`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow/scripts"))

from factlife import models, world
from factlife.config.tracing import Tracing
from factlife.models.anatomy import get_anatomy
from factlife.tracing.patching import embed_tokens, restore_states, stack_ids
from factlife.tracing.prompts import make_prompt_pairs
from factlife.tracing.trace import restored_states, trace_facts


def main() -> None:
    """Print one row for each corruption, and how much faster many cells at a time are than one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("world")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--windows", type=int, nargs="+", default=[1])
    parser.add_argument("--noise-samples", type=int, default=10, help="noise samples per fact")
    parser.add_argument("--corruptions", nargs="+", default=["replacement", "noise"])
    parser.add_argument("--slow", type=int, default=5, help="facts that are also traced one cell at a time; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, tokenizer = models.load_model(asked.model)
    truth = world.load_world(asked.world)
    base = Tracing(
        facts=asked.facts,
        windows=asked.windows,
        noise_samples=asked.noise_samples,
        components=["residual", "attention", "mlp"],
    )
    for corruption in asked.corruptions:
        began, cpu = time.perf_counter(), time.process_time()
        found = trace_facts(
            model, tokenizer, truth, base.model_copy(update={"corruptions": [corruption]}), batch_tokens=16_384
        )
        done = found[found["exclusion_reason"].isna()]
        print(
            f"{corruption}: {done['fact_id'].nunique()} facts, {len(done)} cells, "
            f"{time.process_time() - cpu:.1f} CPU seconds, {time.perf_counter() - began:.1f} seconds",
            flush=True,
        )
    if asked.slow:
        compare(model, tokenizer, truth, base, asked.slow)


def compare(model: object, tokenizer: object, truth: world.World, settings: Tracing, facts: int) -> None:
    """The same cells of a few facts, all at once and each in a run of its own."""
    panel = truth.facts.loc[truth.facts["panel"], "fact_id"]
    probes = truth.probes[(truth.probes["kind"] == "forward") & truth.probes["fact_id"].isin(panel)]
    pairs, _ = make_prompt_pairs(tokenizer, truth, probes.drop_duplicates("fact_id"))
    alike = [pair for pair in pairs if (len(pair.ids), pair.subject) == (len(pairs[0].ids), pairs[0].subject)][:facts]
    clean, corrupted = (
        embed_tokens(model, stack_ids([getattr(pair, name) for pair in alike])) for name in ("ids", "donor_ids")
    )
    answers = torch.tensor([[pair.answer, pair.donor_answer] for pair in alike])
    wanted = restored_states(settings, range(alike[0].subject.start, clean.shape[1]), get_anatomy(model).n_layers)
    cpu = time.process_time()
    together = restore_states(model, clean, corrupted, answers, wanted)
    fast, cpu = time.process_time() - cpu, time.process_time()
    apart = torch.stack(
        [
            torch.cat([restore_states(model, clean[row], corrupted[row], answers[row], [cell]) for cell in wanted], 1)[
                0
            ]
            for row in torch.arange(len(alike))[:, None]
        ]
    )
    slow = time.process_time() - cpu
    print(
        f"{len(alike)} facts, {len(wanted)} cells: {fast:.2f} CPU seconds at once, {slow:.2f} one at a time "
        f"({slow / fast:.1f} times), largest difference {(together - apart).abs().max():.0e}"
    )


if __name__ == "__main__":
    main()
