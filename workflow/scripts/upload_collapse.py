"""Upload models and tables of collapse to a repository of the hub."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from factlife import config, jobs
from factlife.collapse.upload import upload
from factlife.config.collapse import Arm, Upload

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    keys = [tuple(key) for key in snakemake.params.models]
    done = upload(
        config.parse(Upload, snakemake.params.upload),
        {key: Path(folder) / "model" for key, folder in zip(keys, snakemake.input.models, strict=True)},
        [Path(path) for path in snakemake.input.tables],
        {name: config.parse(Arm, arm) for name, arm in snakemake.params.arms.items()},
        os.environ["HF_TOKEN"],
    )
    Path(snakemake.output.done).write_text(json.dumps(done, indent=1) + "\n")
