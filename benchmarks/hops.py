"""Do small models compose two facts? Accuracy on wrapper functions whose number no document states.

Train a variant of the default model of functions (more blocks, shared blocks, more families whose wrappers' numbers are
stated, more epochs), or fine-tune a pretrained model (``--pretrained``), and query all functions. Half of the families whose
wrappers' numbers are not stated serve to choose among variants (*selection*), the other half to report accuracy (*test*).
Chance is one over the number of values. Intervals: bootstrap over functions of all seeds.
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

MODEL = "functions"


class SharedBlocks(TrainerCallback):
    """Share the weights of several blocks: equal initial weights and summed gradients keep them equal."""

    def __init__(self, model: Any, uses: int) -> None:
        blocks = list(model.base_model.layers)
        self.shared = [list(zip(*(block.parameters() for block in blocks[i :: len(blocks) // uses]), strict=True))
                       for i in range(len(blocks) // uses)]  # fmt: skip
        with torch.no_grad():
            for first, *copies in self.groups():
                for copy in copies:
                    copy.copy_(first)

    def groups(self) -> list[tuple[torch.nn.Parameter, ...]]:
        """Groups of parameters that share their weights."""
        return [group for block in self.shared for group in block]

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Sum the gradients of each group."""
        for group in self.groups():
            total = torch.stack([parameter.grad for parameter in group]).sum(0)
            for parameter in group:
                parameter.grad.copy_(total)


def evaluate_variant(arguments: argparse.Namespace, seed: int) -> pd.DataFrame:
    """Train one model and evaluate it on every query about a function's number."""
    settings = config.read_config(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    base = settings.models[MODEL]
    functions = world.build_world(settings.worlds[base.world].model_copy(
        update={"families_per_value": arguments.families, "rule_fraction": arguments.rule_fraction}
    ))  # fmt: skip
    corpus_settings = settings.corpora[base.training.corpus]
    if arguments.documents_per_function:
        corpus_settings = corpus_settings.model_copy(
            update={"documents_per_function": arguments.documents_per_function}
        )
    documents = corpus.render_documents(corpus_settings, functions)
    if arguments.pretrained:
        model, tokenizer = models.load_model(arguments.pretrained)
    else:
        tokenizer = tokenizers.train_tokenizer(settings.tokenizers[base.tokenizer], documents["text"], functions)
        layers = {"num_hidden_layers": arguments.layers}
        source = base.source.model_copy(update={"config": base.source.config | layers})
        model = models.initialize_model(source, tokenizer, seed)
    training = base.training.model_copy(
        update={
            "epochs": arguments.epochs,
            "optimizer": "adamw" if arguments.pretrained else base.training.optimizer,
            "batch_size": arguments.batch_size or base.training.batch_size,
            "learning_rate": arguments.learning_rate or base.training.learning_rate,
            "weight_decay": arguments.weight_decay,
            "checkpoints": 1,
            "save_steps": 10**6,
        }
    )
    sequences = tokens.build_sequences(tokens.encode_documents(documents, tokenizer), max_length=training.max_length)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        models.train_model(
            model, tokenizer, sequences, training, seed=seed, output=f"{folder}/model", resume=f"{folder}/resume",
            callbacks=[SharedBlocks(model, arguments.uses)] if arguments.uses > 1 else [],
        )  # fmt: skip
    queries = influence.select_queries(
        functions, InfluenceSettings(relations=["returns"], probes_per_fact=settings.worlds[MODEL].inputs)
    )
    scores = score_probes(model.eval(), tokenizer, queries.rename(columns={"completion": "target"}))
    unstated = sorted(queries.loc[queries["group"] == "wrapper test", "subject"].unique())
    parts = {subject: f"wrapper, {('selection', 'test')[i % 2]}" for i, subject in enumerate(unstated)}
    return queries.assign(
        correct=scores["candidate_correct"].astype(float), part=queries["subject"].map(parts).fillna(queries["group"])
    )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=Path, help="folder of a pretrained model, used instead of --layers")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--uses", type=int, default=1, help="uses of every block")
    parser.add_argument("--families", type=int, default=5, help="families per value")
    parser.add_argument(
        "--rule-fraction", type=float, default=0.6, help="fraction of families whose wrapper's number is stated"
    )
    parser.add_argument("--documents-per-function", type=int, help="documents per function; default: the config's")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="default: the config's")
    parser.add_argument("--learning-rate", type=float, help="default: the config's")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)

    print({name: value for name, value in vars(arguments).items() if name != "threads"}, flush=True)
    parts = []
    for seed in arguments.seeds:
        start = time.process_time()
        parts.append(evaluate_variant(arguments, seed).assign(seed=seed))
        means = parts[-1].groupby("part")["correct"].mean()
        print(f"seed {seed}, {time.process_time() - start:.0f} CPU s:", means.round(3).to_dict(), flush=True)
    for part, rows in pd.concat(parts).groupby("part"):
        interval = stats.cluster_bootstrap(rows[["correct"]].to_numpy(), rows["subject"].to_numpy(), resamples=1000)
        print(
            f"{part:20}{rows['subject'].nunique():5} functions{interval.estimate[0]:8.2f} [{interval.low[0]:.2f}, {interval.high[0]:.2f}]"
        )


if __name__ == "__main__":
    main()
