"""The frame of every job: log, seeds, threads, device and provenance."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "pandas", "snakemake")


@dataclass
class Job:
    """A running job.

    Attributes:
        device: the device for models.
        provenance: rule, wildcards, parameters, input hashes and versions behind the job's artifacts.
    """

    device: str = "cpu"
    provenance: dict[str, Any] = field(default_factory=dict)

    def write_manifest(self, folder: str | Path, **extra: Any) -> None:
        """Write ``manifest.json`` into a directory artifact, with the hashes of its files."""
        files = {
            str(path.relative_to(folder)): sha256(path)
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file() and path.name != "manifest.json"
        }
        manifest = self.provenance | extra | {"files": files}
        (Path(folder) / "manifest.json").write_text(json.dumps(manifest, indent=1, default=str) + "\n")


class DamagedArtifact(ValueError):
    """A file does not match its manifest; the message names the file and the remedy."""


def check_manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of a directory artifact and compare every file with its hash.

    Raises:
        DamagedArtifact: a file is missing or differs, or the manifest itself is missing or truncated.
    """
    try:
        manifest = json.loads((Path(folder) / "manifest.json").read_text())
        files = manifest["files"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        raise DamagedArtifact(
            f"{folder}/manifest.json is missing or truncated; delete the folder and run again"
        ) from None
    for name, expected in files.items():
        path = Path(folder) / name
        actual = sha256(path) if path.exists() else "nothing"
        if actual != expected:
            raise DamagedArtifact(
                f"{path} does not match its manifest (sha256 {expected[:8]}… expected, {actual[:8]} found)\n"
                "  the file was changed or truncated after it was written; delete the folder and run again"
            )
    return manifest


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def start(snakemake: Any) -> Iterator[Job]:
    """Set up a script's log, seeds, threads and device, and redirect its output to the rule's log, if it has one.

    The number of threads comes from the rule's parameter ``torch_threads``, not from the machine, so that the same
    config gives the same numbers everywhere.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _output_to(snakemake.log[0]) if snakemake.log else contextlib.nullcontext():
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr, force=True
        )
        logging.captureWarnings(True)
        # `factlife.costs` reads this line.
        logging.info("start-up took %.2f seconds", time.time() - psutil.Process().create_time())
        try:
            threads = snakemake.params.get("torch_threads")
            device = _set_up_torch(threads, snakemake.resources.get("gpu", 0)) if threads else "cpu"
            random.seed(0)
            yield Job(device, _provenance(snakemake))
        except Exception as error:
            sys.stdout.flush()
            # Errors of the library name the remedy; a traceback would not help the user.
            expected = type(error).__module__.startswith("factlife")
            logging.error("%s failed: %s", snakemake.rule, error, exc_info=not expected)
            raise


@contextlib.contextmanager
def _output_to(path: str) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(path, "w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, descriptor in zip((1, 2), saved, strict=True):
                os.dup2(descriptor, stream)
                os.close(descriptor)


def _set_up_torch(threads: int, gpus: int) -> str:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return "cuda" if gpus and torch.cuda.is_available() else "cpu"


def _provenance(snakemake: Any) -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "params": dict(snakemake.params.items()),
        "inputs": {str(path): _input_hash(path) for path in snakemake.input},
        "python": platform.python_version(),
        "versions": versions,
    }


def _input_hash(path: str) -> str:
    """Hash of a file, or of a directory artifact's manifest, which contains the hashes of its files."""
    manifest = Path(path) / "manifest.json"
    if manifest.exists():
        return sha256(manifest)
    return sha256(path) if Path(path).is_file() else ""
