"""Packages of the library import each other in one direction only."""

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "workflow/scripts/factlife"
# The packages that each package may import, besides SHARED.
SHARED = {"config", "stats", "jobs", "figures", "digest"}
BELOW = {"world": set(), "corpus": {"world"}}
BELOW["models"] = BELOW["corpus"] | {"corpus"}
BELOW["recall"] = BELOW["models"] | {"models"}
BELOW["tracing"] = BELOW["dynamics"] = BELOW["influence"] = BELOW["collapse"] = BELOW["recall"] | {"recall"}
BELOW["saes"] = BELOW["editing"] = BELOW["tracing"] | {"tracing"}
BELOW["circuits"] = BELOW["graphs"] = BELOW["saes"] | {"saes"}
BELOW["ledger"] = BELOW["tracing"]
BELOW |= {package: set() for package in SHARED}


def imported(path: Path) -> set[str]:
    """Packages that a module imports, also inside functions."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "factlife":
            packages |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("factlife."):
            packages.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            packages |= {name.name.split(".")[1] for name in node.names if name.name.startswith("factlife.")}
    return packages


@pytest.mark.parametrize("package", sorted(path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists()))
def test_imports_only_point_left(package):
    allowed = BELOW[package] | {package} | SHARED
    for path in (LIBRARY / package).rglob("*.py"):
        assert imported(path) <= allowed, f"{path.relative_to(LIBRARY)} imports {imported(path) - allowed}"


def test_the_library_knows_nothing_of_snakemake():
    for path in LIBRARY.rglob("*.py"):
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert "snakemake" not in names, path.relative_to(LIBRARY)
