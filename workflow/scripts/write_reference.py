"""Write what is generated: the config's schema and reference, and the ledger's columns. `make docs` runs this."""

from __future__ import annotations

from pathlib import Path

from factlife.config import reference
from factlife.ledger import columns

ROOT = Path(__file__).parents[2]
SCHEMA, README = ROOT / "workflow/schemas/config.schema.yaml", ROOT / "config/README.md"
LEDGER = ROOT / "docs/ledger.md"

if __name__ == "__main__":
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(reference.schema())
    README.write_text(reference.insert(README.read_text()))
    LEDGER.write_text(reference.insert(LEDGER.read_text(), columns.page()))
