"""What tests share: a generator of random numbers; a copy of the workflow, and Snakemake in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import settings

from factlife.config.corpora import Tokenizer as TokenizerSettings
from factlife.config.training import Scratch
from factlife.config.worlds import PeopleWorld
from factlife.corpus import tokenizers
from factlife.models import initialize_model
from factlife.world import people

# The same examples in every run, however busy the machine is.
settings.register_profile("factlife", derandomize=True, deadline=None)
settings.load_profile("factlife")

ROOT = Path(__file__).parents[1]
SMOKE = "config/smoke.yaml"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models are slower with more, and the last digits of sums depend on their number."""
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(0)


@dataclass
class Checkout:
    """A copy of the workflow in a folder of its own.

    Attributes:
        folder: where it is.
    """

    folder: Path

    def command(self, *arguments: str, config: str | dict[str, Any] = SMOKE) -> list[str]:
        """Of Snakemake with the smoke scenario and, on top of it, ``config``; both are greedy options, so they end it."""
        files = [SMOKE, self.write_config(config)] if isinstance(config, dict) else [config]
        return [sys.executable, "-m", "snakemake", *arguments, "--configfile", *files]

    def write_config(self, config: dict[str, Any]) -> str:
        """Write a config file; its path."""
        path = self.folder / "config/user.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path.relative_to(self.folder))

    def snakemake(self, *arguments: str, config: str | dict[str, Any] = SMOKE) -> Run:
        """Run Snakemake here."""
        done = subprocess.run(
            self.command(*arguments, config=config),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Run(done.returncode, done.stdout)

    def copy(self, folder: Path) -> Checkout:
        """With results and with what Snakemake remembers of them."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Checkout(folder)


@dataclass
class Run:
    """What a run of Snakemake said.

    Attributes:
        status: its exit status.
        text: its output.
    """

    status: int
    text: str

    def passed(self) -> Run:
        """Itself, if Snakemake did not fail."""
        assert self.status == 0, self.text
        return self

    def jobs(self, reason: str = "") -> set[str]:
        """Jobs that it ran or would run, as ``rule wildcard wildcard``, whose reason holds a text."""
        found = set()
        for job in re.findall(r"^(?:local)?(?:rule|checkpoint) .*?(?=^\[|^\S|\Z)", self.text, re.MULTILINE | re.DOTALL):
            rule = re.match(r"\S+ (\w+)", job)[1]
            values = re.search(r"^ +wildcards: (.*)$", job, re.MULTILINE)
            if reason in job:
                found.add(" ".join([rule, *(re.findall(r"=([^,\s]+)", values[1]) if values else [])]))
        return found


@pytest.fixture(scope="session")
def check_out() -> Callable[[Path], Checkout]:
    """Copies the workflow into a folder."""

    def copy(folder: Path) -> Checkout:
        for part in ("Snakefile", "config", "workflow", "profiles"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / part)
        return Checkout(folder)

    return copy


@pytest.fixture(scope="session")
def small_world():
    """Twelve people with names of two pieces and three majors; birth dates have two tokens."""
    names = {"style": "pieces", "choices": [4, 4]}
    return people.build_world(
        PeopleWorld(
            kind="people", people=12, unseen=0, values=3, regions=0, panel=6, names=names,
            relations=["major", "birth_date"],
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_tokenizer(small_world):
    """A token for each piece of a name, month and major."""
    texts = [*small_world.probes["prompt"], *small_world.facts["value"]]
    return tokenizers.train_tokenizer(TokenizerSettings(kind="word", corpus="people"), texts, small_world)


@pytest.fixture(scope="session")
def small_model(small_tokenizer):
    """Two layers of random weights."""
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config |= {"initializer_range": 0.2, "use_parallel_residual": False}
    return initialize_model(
        Scratch(kind="scratch", architecture="GPTNeoXForCausalLM", config=config), small_tokenizer, 0
    )
