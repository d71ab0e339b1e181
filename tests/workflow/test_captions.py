"""Captions of the report, rendered as Snakemake renders them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined

from factlife.config import read_config

ROOT = Path(__file__).parents[2]
CAPTIONS = sorted((ROOT / "workflow/report").glob("*.rst"))
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())
SMOLLM2 = yaml.safe_load((ROOT / "config/smollm2.yaml").read_text())


def render(caption, user):
    """The caption in a run of the default scenario with the user's changes; trimming as in ``snakemake.report``."""
    config = read_config(DEFAULT, user).model_dump(mode="json", warnings="none")
    wildcards = SimpleNamespace(model="m", seed="0", world="w")
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    snakemake = SimpleNamespace(config=config, wildcards=wildcards)
    return environment.from_string(caption.read_text()).render(snakemake=snakemake, files=[], categories={})


@pytest.mark.parametrize("user", [{}, SMOLLM2], ids=["default", "smollm2"])
def test_captions_are_one_paragraph_of_valid_text(user):
    for caption in CAPTIONS:
        text = render(caption, user)
        publish_parts(text, writer="html", settings_overrides={"halt_level": 2})
        assert caption.name == "workflow.rst" or "\n\n" not in text.strip(), caption.name


def test_captions_only_mention_what_was_run():
    folder = ROOT / "workflow/report"
    for name, phrase in {
        "recall-confidence.rst": "Subjects in no document are the control",
        "recall-models.rst": "names and their tokenization",
        "collapse-recall.rst": "*real-only*",
        "collapse-text.rst": "models of people",
        "influence-composition.rst": "*Ancestors in the chain*",
        "dynamics-extraction.rst": "*augmentation*",
    }.items():
        assert phrase in render(folder / name, {}), name
        assert phrase not in render(folder / name, SMOLLM2), name
