"""Write what is generated from the types of the config: its schema and its reference. `make docs` runs this."""

from __future__ import annotations

from pathlib import Path

from factlife.config import reference

ROOT = Path(__file__).parents[2]
SCHEMA, README = ROOT / "workflow/schemas/config.schema.yaml", ROOT / "config/README.md"

if __name__ == "__main__":
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(reference.schema())
    README.write_text(reference.insert(README.read_text()))
