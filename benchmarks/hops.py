"""Which small models compose two facts: accuracy on wrappers whose number no document states.

Trains the default model of functions with changes (more blocks, blocks that are used several times, more families whose
wrappers' numbers are stated, more passes), or fine-tunes a pretrained one (``--begin``), and asks it about all functions.
Every second family of those never stated is for choosing among changes (*selection*), the others are for the figure that is
reported (*test*). Chance is one in as many as there are numbers. Intervals: bootstrap over functions, those of all seeds
together.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from transformers import TrainerCallback

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from factlife import config, corpus, influence, models, stats, world  # noqa: E402
from factlife.config.influence import InfluenceSettings  # noqa: E402
from factlife.corpus import tokenizers, tokens  # noqa: E402
from factlife.recall.score import score_probes  # noqa: E402

NAME = "functions"


class Shared(TrainerCallback):
    """Blocks that begin alike and get the sum of their gradients stay one block, used several times."""

    def __init__(self, model: Any, uses: int) -> None:
        blocks = list(model.base_model.layers)
        self.shared = [list(zip(*(block.parameters() for block in blocks[at :: len(blocks) // uses]), strict=True))
                       for at in range(len(blocks) // uses)]  # fmt: skip
        with torch.no_grad():
            for first, *others in self.groups():
                for other in others:
                    other.copy_(first)

    def groups(self) -> list[tuple[torch.nn.Parameter, ...]]:
        """Parameters that are one, at each of their uses."""
        return [group for block in self.shared for group in block]

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Add up the gradients of all uses."""
        for group in self.groups():
            total = torch.stack([parameter.grad for parameter in group]).sum(0)
            for parameter in group:
                parameter.grad.copy_(total)


def answers(arguments: argparse.Namespace, seed: int) -> pd.DataFrame:
    """Train one model; its answers to every question about a function's number."""
    settings = config.read_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    chosen = settings.models[NAME]
    made = world.build_world(settings.worlds[chosen.world].model_copy(
        update={"families_per_value": arguments.families, "rule_fraction": arguments.rule_fraction}
    ))  # fmt: skip
    written = settings.corpora[chosen.training.corpus]
    if arguments.documents_per_function:
        written = written.model_copy(update={"documents_per_function": arguments.documents_per_function})
    documents = corpus.render_documents(written, made)
    if arguments.begin:
        model, tokenizer = models.load_model(arguments.begin)
    else:
        tokenizer = tokenizers.train_tokenizer(settings.tokenizers[chosen.tokenizer], documents["text"], made)
        layers = {"num_hidden_layers": arguments.layers}
        source = chosen.source.model_copy(update={"config": chosen.source.config | layers})
        model = models.initialize_model(source, tokenizer, seed)
    training = chosen.training.model_copy(
        update={
            "epochs": arguments.epochs,
            "optimizer": "adamw" if arguments.begin else chosen.training.optimizer,
            "batch_size": arguments.batch_size or chosen.training.batch_size,
            "learning_rate": arguments.learning_rate or chosen.training.learning_rate,
            "weight_decay": arguments.weight_decay,
            "checkpoints": 1,
            "save_steps": 10**6,
        }
    )
    read = tokens.build_sequences(tokens.encode_documents(documents, tokenizer), max_length=training.max_length)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        models.train_model(
            model, tokenizer, read, training, seed=seed, output=f"{folder}/model", resume=f"{folder}/resume",
            callbacks=[Shared(model, arguments.uses)] if arguments.uses > 1 else [],
        )  # fmt: skip
    asked = influence.select_queries(
        made, InfluenceSettings(relations=["returns"], probes_per_fact=settings.worlds[NAME].inputs)
    )
    found = score_probes(model.eval(), tokenizer, asked.rename(columns={"completion": "target"}))
    never = sorted(asked.loc[asked["group"] == "wrapper test", "subject"].unique())
    part = {subject: f"wrapper, {('selection', 'test')[at % 2]}" for at, subject in enumerate(never)}
    return asked.assign(
        correct=found["candidate_correct"].astype(float), part=asked["subject"].map(part).fillna(asked["group"])
    )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--begin", type=Path, help="folder of a pretrained model; layers is not used then")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--uses", type=int, default=1, help="of every block")
    parser.add_argument("--families", type=int, default=5, help="for each number")
    parser.add_argument("--rule-fraction", type=float, default=0.6, help="of families whose wrapper's number is stated")
    parser.add_argument("--documents-per-function", type=int, help="documents on each statement; the config's")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="the config's")
    parser.add_argument("--learning-rate", type=float, help="the config's")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)

    print({name: value for name, value in vars(arguments).items() if name != "threads"}, flush=True)
    parts = []
    for seed in arguments.seeds:
        began = time.process_time()
        parts.append(answers(arguments, seed).assign(seed=seed))
        means = parts[-1].groupby("part")["correct"].mean()
        print(f"seed {seed}, {time.process_time() - began:.0f} CPU s:", means.round(3).to_dict(), flush=True)
    for part, rows in pd.concat(parts).groupby("part"):
        found = stats.cluster_bootstrap(rows[["correct"]].to_numpy(), rows["subject"].to_numpy(), resamples=1000)
        print(
            f"{part:20}{rows['subject'].nunique():5} functions{found.estimate[0]:8.2f} [{found.low[0]:.2f}, {found.high[0]:.2f}]"
        )


if __name__ == "__main__":
    main()
