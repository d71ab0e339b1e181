"""Where trained models look facts up: `python benchmarks/subject.py WORLD MODEL_FOLDER …` on finished results."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent / "workflow" / "scripts"))

from factlife import models, world
from factlife.tracing.interchange import interchange_accuracy


def main(world_folder: str, *folders: str) -> None:
    """Print the interchange accuracy by token and block for each model."""
    truth = world.load_world(world_folder)
    for folder in folders:
        model, tokenizer = models.load_model(folder)
        table = interchange_accuracy(model, tokenizer, truth)
        shares: pd.DataFrame = table.pivot(index="token_role", columns="layer", values="accuracy")
        print(f"{folder}: {table['n'].iloc[0]} pairs\n{shares.round(2).to_string()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
