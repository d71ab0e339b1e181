"""An old key gives an error that names the key that replaces it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from factlife.config import Config, ConfigError, read_config, sections
from factlife.config.base import models_in
from factlife.config.explain import explain_error

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())
RENAMED = [(section, old, new) for section in sections() for old, new in section.renamed.items()]
MOVED = [(section, old, new) for section in sections() for old, new in section.moved.items()]


def messages(section, config):
    with pytest.raises(ValidationError) as error:
        section.model_validate(config)
    return [explain_error(item, config, section) for item in error.value.errors()]


def paths(text):
    """Several keys in words, such as "`a`, `b` and `c`"."""
    return text.replace("`", "").replace(" and ", ", ").split(", ")


def has_key(section, path):
    """Whether a section has a key at a path, in which `*` stands for any name."""
    name, *rest = path.split(".")
    if name not in section.model_fields:
        return False
    inner = [part for part in rest if part != "*"]
    return not inner or any(
        has_key(model, ".".join(inner)) for model in models_in(section.model_fields[name].annotation)
    )


@pytest.mark.parametrize(("section", "old", "new"), RENAMED, ids=lambda value: getattr(value, "__name__", value))
def test_an_old_key_gives_an_error_that_names_the_new_one(section, old, new):
    assert f"{old} is now called `{new}`; rename the key" in messages(section, {old: 1})
    assert old not in section.model_fields and set(paths(new)) <= section.model_fields.keys()


@pytest.mark.parametrize(("section", "old", "new"), MOVED, ids=lambda value: getattr(value, "__name__", value))
def test_a_key_that_moved_gives_an_error_that_names_its_new_place(section, old, new):
    assert f"{old} has moved to {new}" in messages(section, {old: 1})
    assert old not in section.model_fields and all(has_key(Config, path) for path in paths(new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"models": {"functions": {"source": {"kind": "hub", "repository": "a/b"}}}},
            "models.functions.source.repository is now called `repo_id`; rename the key",
        ),
        ({"tracing": {"noise_samples": 3}}, "tracing has moved to models.*.tracing"),
        ({"recall": {"batch_tokens": 3}}, "recall has moved to run.resamples and models.*.batch_tokens"),
        ({"run": {"batch_tokens": 3}}, "run.batch_tokens has moved to models.*.batch_tokens"),
        ({"dynamics": {"experiments": {}}}, "dynamics has moved to experiments and run.resamples"),
        ({"collapse": {"run": ["replace"]}}, "collapse.run has moved to models.*.collapse.arms"),
        ({"collapse": {"arms": {"replace": {"model": "m"}}}}, "collapse.arms.replace.model has moved to models.*.collapse.arms"),
        ({"dictionaries": {"batchtopk-residual": {"models": ["m"]}}}, "dictionaries.batchtopk-residual.models has moved to models.*.saes.dictionaries"),
        ({"models": {"people-pieces": {"tracing": {"models": ["m"]}}}}, "models.people-pieces.tracing.models has moved to models.*.stages"),
        ({"defaults": {"circuits": {"resamples": 9}}}, "defaults.circuits.resamples has moved to run.resamples"),
    ],
)  # fmt: skip
def test_the_error_names_the_full_key(change, message):
    with pytest.raises(ConfigError) as error:
        read_config(DEFAULT, change)
    assert message in str(error.value).splitlines()
