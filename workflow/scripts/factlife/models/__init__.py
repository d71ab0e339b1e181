"""Models: loading, anatomy, training, and what their folders hold."""

from factlife.models.load import (
    ModelError,
    add_tokens,
    begin,
    digest,
    download,
    load,
    merge_adapter,
    save,
    scratch,
    source,
)
from factlife.models.store import checkpoints, exposures, link_files, stated
from factlife.models.train import TrainingStopped, fresh, train

__all__ = [
    "ModelError",
    "TrainingStopped",
    "add_tokens",
    "begin",
    "checkpoints",
    "digest",
    "download",
    "exposures",
    "fresh",
    "link_files",
    "load",
    "merge_adapter",
    "save",
    "scratch",
    "source",
    "stated",
    "train",
]
