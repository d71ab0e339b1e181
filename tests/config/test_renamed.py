"""An old key gives an error that names the key that replaces it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from factlife.config import ConfigError, read_config, sections
from factlife.config.explain import explain_error

RENAMED = [(section, old, new) for section in sections() for old, new in section.renamed.items()]


@pytest.mark.parametrize(("section", "old", "new"), RENAMED, ids=lambda value: getattr(value, "__name__", value))
def test_an_old_key_gives_an_error_that_names_the_new_one(section, old, new):
    config = {old: 1}
    with pytest.raises(ValidationError) as error:
        section.model_validate(config)
    messages = [explain_error(item, config, section) for item in error.value.errors()]
    assert f"{old} is now called `{new}`; rename the key" in messages
    # One old key may become several new ones: "`a` and `b`".
    replacements = {name.split(".")[0].strip("`") for name in new.replace(" and ", ", ").split(", ")}
    assert old not in section.model_fields and replacements <= section.model_fields.keys()


def test_the_error_names_the_full_key_of_a_source():
    config = {"models": {"m": {"source": {"kind": "hub", "repository": "a/b"}}}}
    with pytest.raises(ConfigError, match=r"models\.m\.source\.repository is now called `repo_id`; rename the key"):
        read_config(config)
