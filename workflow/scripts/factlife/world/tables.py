"""The tables of a world: entities, facts and probes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_TEXTS = pa.list_(pa.string())

ENTITIES = pa.schema(
    [
        ("entity_id", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("split", pa.string()),
        ("exposures", pa.int64()),
    ]
)
FACTS = pa.schema(
    [
        ("fact_id", pa.string()),
        ("entity_id", pa.string()),
        ("relation", pa.string()),
        ("value", pa.string()),
        ("value_id", pa.string()),
        ("seen", pa.bool_()),
        ("exposures", pa.int64()),
        ("panel", pa.bool_()),
    ]
)
PROBES = pa.schema(
    [
        ("probe_id", pa.string()),
        ("fact_id", pa.string()),
        ("kind", pa.string()),
        ("template", pa.string()),
        ("held_out_template", pa.bool_()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("candidates", _TEXTS),
        ("supporting_fact_ids", _TEXTS),
    ]
)
PROBE_KINDS = (
    "forward",
    "paraphrase",
    "prefixed",
    "question",
    "reverse",
    "negated",
    "neighbourhood",
    "multi_hop",
    "unseen",
)


class WorldError(ValueError):
    """A world is inconsistent or cannot be built; the message says what to change."""


@dataclass(frozen=True)
class World:
    """A knowledge graph and the probes about it.

    Attributes:
        entities: one row per entity; ``exposures`` is the frequency of its facts relative to the rarest entity.
        facts: one row per (entity, relation); ``seen``: documents state the fact; ``panel``: the fact goes through every
            stage.
        probes: one row per probe; ``candidates`` includes the target, ``supporting_fact_ids`` lists the facts that
            determine it.
    """

    entities: pd.DataFrame
    facts: pd.DataFrame
    probes: pd.DataFrame

    def save(self, folder: str | Path) -> None:
        """Write the three tables to a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, schema in _SCHEMAS.items():
            write_table(getattr(self, name), Path(folder) / f"{name}.parquet", schema)


_SCHEMAS = {"entities": ENTITIES, "facts": FACTS, "probes": PROBES}


def load_world(folder: str | Path) -> World:
    """Read a world from the folder with its three tables."""
    return World(**{name: read_table(Path(folder) / f"{name}.parquet", schema) for name, schema in _SCHEMAS.items()})


def load_world_of_table(table: str | Path | None) -> World | None:
    """Read the world that a table belongs to; None without a table."""
    return load_world(Path(table).parent) if table else None


def read_table(path: str | Path, schema: pa.Schema | None = None) -> pd.DataFrame:
    """Read a Parquet table and check that it has the columns of a schema.

    Raises:
        WorldError: the file is damaged or a column is missing.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise WorldError(f"{path} cannot be read as Parquet ({error}); delete it and run again") from None
    for field in schema or ():
        if field.name not in table.column_names:
            raise WorldError(f"{path} has no column `{field.name}`; delete it and run again")
    return table.to_pandas()


def write_table(frame: pd.DataFrame, path: str | Path, schema: pa.Schema | None = None) -> None:
    """Write a Parquet table, with the columns of a schema first."""
    if schema is not None:
        frame = frame[[*schema.names, *(name for name in frame.columns if name not in schema.names)]]
        types = {field.name: field.type for field in schema}
        inferred = pa.Schema.from_pandas(frame, preserve_index=False)
        schema = pa.schema([(field.name, types.get(field.name, field.type)) for field in inferred])
    pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), path)


def check_world(world: World) -> World:
    """Return the world if it is consistent.

    Raises:
        WorldError: ids or names repeat, a text is empty, or a table refers to an entity or fact that does not exist.
    """
    entities, facts, probes = world.entities, world.facts, world.probes
    for frame, column in ((entities, "entity_id"), (facts, "fact_id"), (probes, "probe_id"), (entities, "name")):
        if repeated_ids := frame[column][frame[column].duplicated()].tolist():
            raise WorldError(f"{column} {repeated_ids[0]!r} occurs more than once; every {column} must be unique")
    for frame, column in ((entities, "name"), (facts, "value"), (probes, "prompt"), (probes, "target")):
        if (is_empty := frame[column].str.strip() == "").any():
            raise WorldError(f"row {int(is_empty.argmax())} has an empty {column}; fill it in or remove the row")
    if unknown_ids := set(facts["entity_id"]) - set(entities["entity_id"]):
        raise WorldError(f"facts mention entity {min(unknown_ids)!r}, which is not among the entities")
    mentioned = set(probes["fact_id"]) | {fact for facts_ in probes["supporting_fact_ids"] for fact in facts_}
    if unknown_ids := mentioned - set(facts["fact_id"]):
        raise WorldError(f"probes mention fact {min(unknown_ids)!r}, which is not among the facts")
    for probe in probes.itertuples():
        if len(probe.candidates) and probe.target not in probe.candidates:
            raise WorldError(f"the target {probe.target!r} of probe {probe.probe_id!r} is not among its candidates")
    return world
