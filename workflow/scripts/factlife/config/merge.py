"""One config out of two: the default scenario, and the user's changes to it.

- An entry that states `kind` replaces an entry of the same name, so that settings of the default scenario never change
  the meaning of a user's definition. An entry without `kind` changes the one below it, key by key.
- A model's section of a stage lies on top of the same section of `defaults`. Where the model does not list the stage,
  the default scenario's section is dropped, and a section that the user wrote is an error.
- `run.models` without `run.experiments` runs no experiments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STAGES = ("recall", "tracing", "circuits", "saes", "graphs", "editing", "influence", "collapse")


def merge_mappings(base: Any, change: Any) -> Any:
    """``change`` on top of ``base``; lists and single values replace, and so does a mapping that states `kind`."""
    if not isinstance(base, Mapping) or not isinstance(change, Mapping) or "kind" in change:
        return change
    return {**base, **{key: merge_mappings(base.get(key), value) for key, value in change.items()}}


def resolve(default: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    """The user's changes on top of the default scenario, with the sections of every model filled in from `defaults`.

    Args:
        default: the default scenario.
        user: the user's own mapping, before anything was merged into it.
    """
    config = dict(merge_mappings(default, user))
    if "models" in _mapping(user, "run") and "experiments" not in _mapping(user, "run"):
        config["run"] = {**_mapping(config, "run"), "experiments": []}
    if models := _mapping(config, "models"):
        config["models"] = {name: _with_stages(model, _mapping(config, "defaults")) for name, model in models.items()}
    return config


def unlisted_sections(user: Mapping[str, Any], config: Mapping[str, Any]) -> Iterable[str]:
    """Sections that the user wrote for stages that their model does not list."""
    for name, model in _mapping(user, "models").items():
        stages = _mapping(config, "models", name).get("stages") or ["recall"]
        for section in STAGES:
            if isinstance(model, Mapping) and model.get(section) is not None and section not in stages:
                yield (
                    f"models.{name}.{section} is a section of a stage that is not run; add `{section}` to "
                    f"models.{name}.stages, or delete the section"
                )


def with_kind_entries(
    config: Mapping[str, Any], kinds: Mapping[str, tuple[str, Sequence[str], Sequence[str]]]
) -> dict[str, Any]:
    """The config with an entry for every name that a model lists and that is the name of a kind.

    Args:
        config: as ``resolve`` returns it.
        kinds: for each section of named entries, such as ``editors``, the stage that lists them, the default of this list,
            and the kinds there are.
    """
    entries = {}
    for section, (stage, default, names) in kinds.items():
        models = [model for model in _mapping(config, "models").values() if stage in _mapping(model)]
        listed = [_mapping(model, stage).get(section, default) for model in models]
        used = {name for list_ in listed if isinstance(list_, list) for name in list_ if isinstance(name, str)}
        new = {name: {"kind": name} for name in names if name in used and name not in _mapping(config, section)}
        if new:
            entries[section] = {**_mapping(config, section), **new}
    return {**config, **entries}


def _with_stages(model: Any, defaults: Mapping[str, Any]) -> Any:
    if not isinstance(model, Mapping) or not isinstance(stages := model.get("stages", ["recall"]), list):
        return model
    sections = {
        stage: merge_mappings(_mapping(defaults, stage), model.get(stage) or {})
        for stage in STAGES[1:]
        if stage in stages
    }
    return {key: value for key, value in model.items() if key not in STAGES[1:]} | sections


def _mapping(config: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The mapping at a path; an empty one where there is none, which the types report."""
    value: Any = config
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
