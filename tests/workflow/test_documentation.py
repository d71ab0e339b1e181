"""What the documentation says can be done."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("profiles/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def _commands():
    for page in PAGES:
        for line in re.findall(r"^snakemake .*$", page.read_text(), flags=re.MULTILINE):
            if "mine.yaml" not in line and "--report" not in line:
                yield line.split("#")[0].strip()


@pytest.mark.parametrize("command", sorted(set(_commands())))
def test_commands_plan(command, tmp_path):
    line = [sys.executable, "-m", *shlex.split(command), "--dry-run", "--quiet", "all", "--directory", str(tmp_path)]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_own_facts_as_the_page_has_them(tmp_path):
    page = (ROOT / "config/README.md").read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", page, flags=re.DOTALL)
    files = {
        "facts.csv": next(block for block in blocks if block.startswith("subject,")),
        "templates.yaml": next(block for block in blocks if block.startswith("# templates.yaml")),
        "mine.yaml": next(block for block in blocks if "kind: table" in block),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    target = "results/corpora/mine/documents.parquet"
    line = [sys.executable, "-m", "snakemake", "--cores", "1", target, "--configfile", str(tmp_path / "mine.yaml")]
    run = subprocess.run([*line, "--directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / target).exists()
