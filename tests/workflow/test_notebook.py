"""The notebook in docs/ runs from top to bottom, and its model has learnt something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_works_without_snakemake(tmp_path):
    cells = json.loads((ROOT / "docs/by-hand.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    check = "print('snakemake' in sys.modules, recall['forward'], recall['unseen'])"

    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*code, check])],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    uses_snakemake, seen, unseen = done.stdout.splitlines()[-1].split()
    assert uses_snakemake == "False"
    assert float(seen) > float(unseen) + 0.1
