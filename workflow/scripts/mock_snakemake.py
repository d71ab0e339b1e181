"""Run the script of any rule in this process, for a debugger; its inputs must exist.

python workflow/scripts/mock_snakemake.py train_model model=people-pieces seed=0 --configfile config/smoke.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import runpy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.iocontainers import Log, Snakemake
from snakemake.jobs import Job
from snakemake.settings.enums import Quietness
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

ROOT = Path(__file__).parents[2]


def mock_snakemake(
    rule: str,
    configfile: str | Path | Sequence[str | Path] | None = None,
    directory: str | Path | None = None,
    **wildcards: Any,
) -> Snakemake:
    """The ``snakemake`` object that the script of a rule receives.

    Args:
        rule: the rule's name.
        configfile: one scenario or several, as for ``snakemake --configfile``.
        directory: as for ``snakemake --directory``; default is the current one.
        wildcards: a value for each wildcard of the rule.

    Returns:
        Input, output, params, wildcards, threads, resources, log and config; paths are relative to the directory.
    """
    return _script_snakemake(_job(rule, configfile, directory, wildcards))


def run(rule: str, configfile: Any = None, directory: str | Path | None = None, **wildcards: Any) -> None:
    """Run a rule's script as Snakemake would, but in this process and with its output on the terminal."""
    job = _job(rule, configfile, directory, wildcards)
    snakemake = _script_snakemake(job)
    snakemake.log = Log([])
    with contextlib.chdir(directory or "."):
        for path in map(Path, snakemake.output):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        runpy.run_path(str(_script(job)), {"snakemake": snakemake}, run_name="__main__")


def _job(rule: str, configfile: Any, directory: str | Path | None, wildcards: Mapping[str, Any]) -> Job:
    files = [configfile] if isinstance(configfile, str | Path) else configfile or []
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow_api = api.workflow(
            resource_settings=ResourceSettings(cores=64),
            config_settings=ConfigSettings(configfiles=[Path(file).resolve() for file in files]),
            snakefile=ROOT / "Snakefile",
            workdir=Path(directory).resolve() if directory else None,
        )
        workflow_api.dag(DAGSettings())
        # No public API from here on: Snakemake creates jobs from target files only.
        workflow = workflow_api._workflow
        workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True, nolock=True)
        names = workflow.get_rule(rule).wildcard_names
        if mismatches := set(names) ^ set(wildcards):
            raise SystemExit(f"rule {rule} has the wildcards {sorted(names)}: check {sorted(mismatches)}")
        values = {name: str(value) for name, value in wildcards.items()}
        job = workflow.async_run(workflow.dag.job_factory.new(workflow.get_rule(rule), workflow.dag, values))
        # Snakemake computes these on first access, which works only here.
        _ = job.params, job.threads, job.resources
        return job


def _script(job: Job) -> Path:
    return Path(job.rule.basedir.join(job.rule.script).get_path_or_uri(secret_free=True)).resolve()


def _script_snakemake(job: Job) -> Snakemake:
    return Snakemake(
        job.input, job.output, job.params, job.wildcards, job.threads, job.resources, job.log,
        job.rule.workflow.config, job.rule.name, None, str(_script(job).parent),
    )  # fmt: skip


def _arguments() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule")
    parser.add_argument("wildcards", nargs="*", metavar="key=value", help="a value for each wildcard of the rule")
    parser.add_argument("--configfile", nargs="+", metavar="FILE", help="scenarios, as Snakemake takes them")
    parser.add_argument("--directory", help="where results are")
    arguments = parser.parse_intermixed_args()
    if invalid := [pair for pair in arguments.wildcards if "=" not in pair]:
        parser.error(f"{invalid[0]} is not of the form key=value")
    return vars(arguments) | {"wildcards": dict(pair.split("=", 1) for pair in arguments.wildcards)}


if __name__ == "__main__":
    arguments = _arguments()
    run(**arguments.pop("wildcards"), **arguments)
