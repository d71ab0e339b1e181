"""Write the generated pages: config reference, ledger columns, reproductions. `make docs` runs this."""

from __future__ import annotations

from pathlib import Path

from factlife.config import reference
from factlife.ledger import columns, reproductions, summary_tables

ROOT = Path(__file__).parents[2]
SCHEMA, README = ROOT / "workflow/schemas/config.schema.yaml", ROOT / "config/README.md"
LEDGER, REPRODUCTIONS = ROOT / "docs/ledger.md", ROOT / "docs/reproductions.md"

if __name__ == "__main__":
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(reference.schema_yaml())
    README.write_text(reference.insert_text(README.read_text()))
    LEDGER.write_text(reference.insert_text(LEDGER.read_text(), columns.columns_markdown()))
    claims = reproductions.evaluate_claims(summary_tables.read_tables(sorted((ROOT / "docs/tables").glob("*.csv"))))
    REPRODUCTIONS.write_text(reference.insert_text(REPRODUCTIONS.read_text(), reproductions.claims_markdown(claims)))
