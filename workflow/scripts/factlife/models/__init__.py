"""Models: loading, anatomy, training, and what their folders hold."""

from factlife.models.load import (
    ModelError,
    add_tokens,
    begin,
    digest,
    download,
    encoder,
    load,
    merge_adapter,
    save,
    scratch,
    source,
)
from factlife.models.store import checkpoints, exposures, link_files, parameters, stated
from factlife.models.teach import Task, teach
from factlife.models.train import TrainingStopped, fresh, train
from factlife.models.writing import writer

__all__ = [
    "ModelError",
    "Task",
    "TrainingStopped",
    "add_tokens",
    "begin",
    "checkpoints",
    "digest",
    "download",
    "encoder",
    "exposures",
    "fresh",
    "link_files",
    "load",
    "merge_adapter",
    "parameters",
    "save",
    "scratch",
    "source",
    "stated",
    "teach",
    "train",
    "writer",
]
