"""Models and tables to a repository of the Hugging Face hub, with model cards. What goes wrong there fails no run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from factlife.config.collapse import Arm, Upload

# Seconds before what failed is tried again.
WAITS = (2, 10, 60)
T = TypeVar("T")

# What a card says of a generation: metric and group of the summary.
_SAID = {
    ("recall", "all"): "facts recalled",
    ("recall", "tail"): "of the least often stated third",
    ("fact_precision", "all"): "facts stated that are true",
    ("perplexity", "all"): "perplexity of held-out real text",
    ("gibberish", "synthetic"): "sense of its text, 0 (noise) to 3 (clean)",
}


def upload(
    settings: Upload,
    models: Mapping[tuple[str, int, int], Path],
    tables: Sequence[Path],
    arms: Mapping[str, Arm],
    token: str,
) -> dict[str, Any]:
    """Upload models, one commit each, and then tables.

    Args:
        settings: the repository, which is made if it is not there, and the hub's address.
        models: folders by arm, seed and generation; each goes to a folder of these names.
        tables: CSV files, the summary first; they go to ``tables/``.
        arms: settings of each arm, for the cards.
        token: a write token; it reaches nothing but the hub.

    Returns:
        ``repository``, the ``commits`` that were made, and under ``failed`` what went wrong, empty if nothing did.
    """
    summary = pd.read_csv(tables[0], dtype={"seed": str})
    batches = {
        f"{arm}, seed {seed}, generation {generation}": [
            *_files(folder, f"{arm}/seed-{seed}/generation-{generation}"),
            CommitOperationAdd(
                f"{arm}/seed-{seed}/generation-{generation}/README.md",
                card(arm, seed, generation, arms[arm], summary).encode(),
            ),
        ]
        for (arm, seed, generation), folder in models.items()
    }
    batches["tables"] = [
        *(CommitOperationAdd(f"tables/{path.name}", path) for path in tables),
        CommitOperationAdd("README.md", overview(models, summary).encode()),
    ]
    done: dict[str, Any] = {"repository": settings.repo_id, "commits": [], "failed": ""}
    try:
        hub = HfApi(endpoint=settings.endpoint, token=token)
        _tried(hub.create_repo, settings.repo_id, private=settings.private, exist_ok=True)
        for message, files in batches.items():
            commit = _tried(hub.create_commit, settings.repo_id, files, commit_message=message)
            done["commits"].append(commit.oid)
    except Exception as error:
        done["failed"] = f"{type(error).__name__}: {error}".replace(token, "…")
        logging.warning("not everything was uploaded to %s: %s", settings.repo_id, done["failed"])
    return done


def _tried(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What a call to the hub answers, after waits where it might yet answer otherwise."""
    for seconds in WAITS:
        try:
            return call(*args, **kwargs)
        except HTTPError as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            # Refused for good: another try changes nothing.
            if status is not None and status < 500 and status not in (408, 429):
                raise
            logging.warning(
                "the hub did not answer (%s); trying again in %d s", status or type(error).__name__, seconds
            )
            time.sleep(seconds)
    return call(*args, **kwargs)


def card(arm: str, seed: int, generation: int, settings: Arm, summary: pd.DataFrame) -> str:
    """The model card of a generation."""
    learnt = (
        f"Each generation learnt {settings.documents} new documents, {settings.synthetic_share:.0%} of them written by the one "
        f"before (mode `{settings.mode}`, from the weights of the `{settings.start}` generation)."
    )
    figures = _figures(summary, arm, seed, generation)
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [factlife, model-collapse]\n---\n"
        f"# {arm}, seed {seed}, generation {generation}\n\n"
        f"Generation {generation} of a chain of language models that began with `{settings.model}`, made to study what models "
        f"lose that learn from their own text. {learnt} Not meant for any other use: its text is likely to be false.\n\n"
        "| measured | |\n|---|---|\n" + "".join(f"| {name} | {value:.3f} |\n" for name, value in figures.items())
    )


def overview(models: Mapping[tuple[str, int, int], Path], summary: pd.DataFrame) -> str:
    """The README of the repository: which models it holds, and what they recall."""
    rows = [
        f"| [{arm}/seed-{seed}/generation-{generation}]({arm}/seed-{seed}/generation-{generation}) | "
        + " | ".join(f"{value:.3f}" for value in _figures(summary, arm, seed, generation, every=True).values())
        for arm, seed, generation in models
    ]
    return (
        "---\ntags: [factlife, model-collapse]\n---\n# Generations of models that learnt from their own text\n\n"
        "Made by Factlife. `tables/collapse.csv` has all figures, with intervals, of all generations.\n\n"
        f"| model | {' | '.join(_SAID.values())} |\n|{'---|' * (len(_SAID) + 1)}\n"
        + "".join(f"{row} |\n" for row in rows)
    )


def _files(folder: Path, place: str) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(f"{place}/{path.name}", path) for path in sorted(folder.iterdir()) if path.is_file()]


def _figures(summary: pd.DataFrame, arm: str, seed: int, generation: int, every: bool = False) -> dict[str, float]:
    """What is said of a generation, by its name; figures that it lacks only where every one is wanted."""
    here = summary[
        (summary["arm"] == arm) & (summary["seed"] == str(seed)) & (summary["generation"] == generation)
    ].set_index(["metric", "group"])["estimate"]
    return {name: here.get(key, float("nan")) for key, name in _SAID.items() if every or key in here.index}
