"""Upload models and tables of collapse to a repository of the hub."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from factlife import collapse, config, jobs
from factlife.collapse.upload import upload_results
from factlife.config.collapse import HubUpload

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

with jobs.start(snakemake):
    folders = collapse.generation_folders(snakemake.params.models, snakemake.input.models)
    result = upload_results(
        config.parse(HubUpload, snakemake.params.upload),
        {key: folder / "model" for key, folder in folders.items()},
        [Path(path) for path in snakemake.input.tables],
        collapse.parse_arms(snakemake.params.arms),
        os.environ["HF_TOKEN"],
    )
    Path(snakemake.output.result).write_text(json.dumps(result, indent=1) + "\n")
