"""The generated reference and schema match the config's types."""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml
from snakemake.utils import update_config

from factlife.config import Config, reference, sections

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


@pytest.mark.parametrize(
    "row",
    [
        "| `kind` | `people` | must be given | Kind of world. |",
        "| `window_fraction` | number, ≥ 0, ≤ 1 | `0.25` | Fraction of statements in windows of sentences about different people. |",
        '| `optimizer` | `muon` or `adamw` | `"muon"` |',
        "| `tokenizer` | text (matching `^[a-z0-9][a-z0-9-]*$`) or empty | empty |",
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
    merged = copy.deepcopy(DEFAULT)
    update_config(merged, yaml.safe_load(scenario.read_text()))
    validator.validate(merged)
    validator.validate(Config.model_validate(merged).model_dump(mode="json"))
    merged["worlds"]["people"]["poeple"] = 3
    assert not validator.is_valid(merged)
