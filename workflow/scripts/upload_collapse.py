"""Upload models and tables of collapse to a repository of the hub."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from factlife import config, jobs
from factlife.collapse.upload import upload_results
from factlife.config.collapse import CollapseArm, HubUpload

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    keys = [tuple(key) for key in snakemake.params.models]
    result = upload_results(
        config.parse(HubUpload, snakemake.params.upload),
        {key: Path(folder) / "model" for key, folder in zip(keys, snakemake.input.models, strict=True)},
        [Path(path) for path in snakemake.input.tables],
        {name: config.parse(CollapseArm, arm) for name, arm in snakemake.params.arms.items()},
        os.environ["HF_TOKEN"],
    )
    Path(snakemake.output.result).write_text(json.dumps(result, indent=1) + "\n")
