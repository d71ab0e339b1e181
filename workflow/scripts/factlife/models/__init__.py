"""Models: loading, anatomy, training, and model folders."""

from factlife.models.checkpoints import (
    count_parameters,
    link_files,
    list_checkpoints,
    read_exposures,
    read_final_exposures,
    token_budget,
)
from factlife.models.launch import TrainingTask, run_training
from factlife.models.load import (
    ModelError,
    add_tokens,
    download_model,
    hash_weights,
    initialize_model,
    load_encoder,
    load_initial_model,
    load_model,
    load_source,
    merge_adapter,
    save_model,
)
from factlife.models.train import TrainingStopped, prepare_resume_folder, train_model
from factlife.models.writer import load_writer

__all__ = [
    "ModelError",
    "TrainingStopped",
    "TrainingTask",
    "add_tokens",
    "count_parameters",
    "download_model",
    "hash_weights",
    "initialize_model",
    "link_files",
    "list_checkpoints",
    "load_encoder",
    "load_initial_model",
    "load_model",
    "load_source",
    "load_writer",
    "merge_adapter",
    "prepare_resume_folder",
    "read_exposures",
    "read_final_exposures",
    "run_training",
    "save_model",
    "token_budget",
    "train_model",
]
