"""The generated reference and schema match the config's types."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from factlife.config import Config, read_config, reference, sections
from factlife.config.editing import EditSurvival
from factlife.config.influence import SweepPoint
from factlife.config.merge import resolve
from factlife.config.models import Stages

ROOT = Path(__file__).parents[2]
README, SCHEMA = ROOT / "config/README.md", ROOT / "workflow/schemas/config.schema.yaml"
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())


def test_readme_is_up_to_date():
    page = README.read_text()
    assert reference.insert_text(page) == page, (
        "the config's types have changed: run `make docs` and commit what it writes"
    )


def test_schema_is_up_to_date():
    assert reference.schema_yaml() == SCHEMA.read_text(), "the config's types have changed: run `make docs`"


def test_reference_has_every_key_with_a_description():
    page = reference.reference_markdown()
    for section in sections():
        assert section.__doc__ in page
        for name, field in section.model_fields.items():
            assert field.description.endswith(".") and f"| `{name}` |" in page
    assert page.count("\n| `") == sum(len(section.model_fields) for section in sections())


def test_sections_stand_in_the_order_of_the_config():
    paths = reference.section_paths()
    assert set(paths) == set(sections())
    top_level = [path.split(".")[0] for path in paths.values() if path]
    assert list(dict.fromkeys(top_level)) == list(Config.model_fields)
    # A section of a stage stands below the models, and `defaults` refers to it.
    assert [path for path in paths.values() if path.startswith("defaults")] == ["defaults"]
    stages = [path.split(".")[2] for path in paths.values() if path.count(".") == 2 and path.startswith("models.*")]
    assert list(dict.fromkeys(stages)) == ["source", "training", *Stages.model_fields]
    assert paths[EditSurvival] == "models.*.editing.survival" and paths[SweepPoint] == "influence.sweeps.*.points"


def test_a_sections_own_keys_stand_before_those_that_it_inherits():
    page = reference.reference_markdown()
    memit = page[page.index("### `Memit`") :].split("\n### ")[0]
    assert "Key: `editors.*`" in memit
    assert memit.index("| `kind` |") < memit.index("| `mom2_update_weight` |") < memit.index("| `layers` |")


EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.S) if "run:" in text]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_readme_are_valid(example):
    assert read_config(DEFAULT, yaml.safe_load(example)).run.models


def test_readme_has_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize(
    "row",
    [
        "| `kind` | `people` | must be given | Kind of world. |",
        "| `window_fraction` | number, ≥ 0, ≤ 1 | `0.25` | Fraction of statements in windows of sentences about different people. |",
        '| `optimizer` | `muon` or `adamw` | `"muon"` |',
        "| `tokenizer` | name or empty | empty |",
        '| `editors` | list of name, at least 1 long | `["memit"]` |',
        "| `control` | name | must be given | The arm that all others are compared with. |",
        "| `component` | text, matching `^(a\\d+(\\.h\\d+)?\\|m\\d+\\|[A-Za-z0-9-]+/layer-\\d+/\\d+)$` | must be given |",
        "| `training` | [`Training`](#training) or empty | empty |",
        "| `betas` | list of number | `[0.9, 0.95]` |",
        "| `learning_rate` | number, > 0 | `0.01` |",
    ],
)
def test_rows(row):
    assert row in reference.reference_markdown()


def test_page_without_its_marks_is_an_error():
    for page in ("", reference.END + reference.BEGIN, 2 * (reference.BEGIN + reference.END)):
        with pytest.raises(ValueError, match="must contain the lines"):
            reference.insert_text(page)


@pytest.mark.parametrize("scenario", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_schema_takes_every_scenario_and_refuses_what_the_types_refuse(scenario):
    schema = yaml.safe_load(SCHEMA.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    merged = copy.deepcopy(resolve(DEFAULT, yaml.safe_load(scenario.read_text())))
    validator.validate(merged)
    validator.validate(Config.model_validate(merged).model_dump(mode="json"))
    validator.validate(read_config(merged).model_dump(mode="json"))
    merged["worlds"]["people"]["poeple"] = 3
    assert not validator.is_valid(merged)
