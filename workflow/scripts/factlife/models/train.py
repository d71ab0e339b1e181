"""Training through the Hugging Face Trainer, in a recorded data order, with checkpoints at doubling exposures."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import SequentialSampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from factlife.config.training import Training
from factlife.models.checkpoints import link_files
from factlife.models.load import save_model
from factlife.models.optim import build_optimizer, learning_rate_factor
from factlife.world.tables import write_table

IGNORE_INDEX = -100
_LOG_EVERY = 10


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


def train_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: pd.DataFrame,
    settings: Training,
    *,
    seed: int,
    output: str | Path,
    resume: str | Path,
    initial_exposures: pd.Series | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> pd.DataFrame:
    """Train a model and write it, its checkpoints, its data order and its exposures.

    Training states are saved in ``resume``, so that a killed job can go on; the folder is removed at success. If
    ``torchrun`` started several processes, each reads its part of every batch, gradients are averaged over the whole
    batch, and only the main process writes.

    Args:
        model: a causal language model.
        tokenizer: saved with every checkpoint.
        sequences: ``doc_ids, fact_ids, input_ids``, one row per sequence.
        settings: training settings.
        seed: seed of the data order.
        output: folder for the trained model; holds ``checkpoints/step-{step}``, ``order.parquet`` (which documents
            each step read) and ``exposures.parquet`` (how often each fact had been stated at each checkpoint).
        resume: folder for training states.
        initial_exposures: how often each fact had been stated before this training, by fact; exposures count on from these.
        callbacks: further callbacks of the Trainer.

    Returns:
        One row per logged step: ``step, exposures, tokens, loss, learning_rate, seconds``.

    Raises:
        TrainingStopped: the loss is not finite.
    """
    output, resume = Path(output), Path(resume)
    order = data_order(sequences["input_ids"].str.len().to_numpy(), settings, seed)
    steps = math.ceil(len(order) / settings.batch_size)
    occurrences = fact_occurrences(sequences["fact_ids"].to_numpy()[order], settings.batch_size)
    exposures = mean_exposures(occurrences, steps)
    steps_to_save = checkpoint_steps(exposures, settings.checkpoints, settings.checkpoint_factor)
    resume.mkdir(parents=True, exist_ok=True)
    model = add_adapter(model, settings, seed)
    saver = _CheckpointCallback(model, tokenizer, resume, set(steps_to_save))

    optimizer_ = build_optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer_, lambda step: learning_rate_factor(step, steps, settings))
    pad_token_id = tokenizer.pad_token_id or 0
    inputs = [sequences["input_ids"].iloc[i] for i in order]
    if process_count() > 1:
        # Processes share full batches. A sequence of one token has no loss.
        inputs += [np.array([pad_token_id])] * (-len(inputs) % settings.batch_size)
    args = _training_arguments(settings, steps, seed, resume, model.device.type)
    trainer = _SequentialTrainer(
        model=model,
        args=args,
        train_dataset=inputs,
        data_collator=PaddingCollator(pad_token_id),
        optimizers=(optimizer_, schedule),
        callbacks=[saver, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    # The Trainer writes this file last; without it, the state is incomplete.
    complete_states = [path.parent for path in resume.glob("trainer/checkpoint-*/trainer_state.json")]
    states = sorted(complete_states, key=lambda path: int(path.name.split("-")[1]))
    if states:
        logging.info("resuming from %s", states[-1].name)
    elif 0 in steps_to_save and args.process_index == 0:
        saver.save_checkpoint(0)
    trainer.train(resume_from_checkpoint=str(states[-1]) if states else None)

    if args.process_index == 0:
        output.mkdir(parents=True, exist_ok=True)
        save_model(merged_copy(model), tokenizer, output)
        for step in steps_to_save:
            # A hard link if possible: the last checkpoint is the trained model.
            source = output if step == steps else resume / f"step-{step}"
            link_files(source, output / "checkpoints" / f"step-{step}")
        _write_order(sequences, order, settings.batch_size, output / "order.parquet")
        write_table(_exposures_by_step(occurrences, steps_to_save, initial_exposures), output / "exposures.parquet")
        shutil.rmtree(resume)
    return _training_curve(
        trainer.state.log_history, exposures, sequences["input_ids"].str.len().to_numpy()[order], settings.batch_size
    )


def data_order(lengths: np.ndarray, settings: Training, seed: int) -> np.ndarray:
    """Indices of sequences in training order, all epochs concatenated.

    Sequences are shuffled. With ``group_by_length``, stretches of eight batches are then sorted by length and the batches
    shuffled again, so that there is little padding.
    """
    rng = np.random.default_rng(seed)
    batch_size, epochs = settings.batch_size, []
    for _ in range(settings.epochs):
        shuffled = rng.permutation(len(lengths))
        if not settings.group_by_length:
            epochs.append(shuffled)
            continue
        batches = []
        for stretch in np.split(shuffled, range(8 * batch_size, len(shuffled), 8 * batch_size)):
            by_length = stretch[np.argsort(lengths[stretch], kind="stable")]
            batches += np.split(by_length, range(batch_size, len(by_length), batch_size))
        full_batches, short_batches = (
            [batch for batch in batches if len(batch) == batch_size],
            [batch for batch in batches if len(batch) < batch_size],
        )
        epochs.append(np.concatenate([*(full_batches[i] for i in rng.permutation(len(full_batches))), *short_batches]))
    return np.concatenate(epochs)


def fact_occurrences(fact_ids: Sequence[Sequence[str]], batch_size: int) -> pd.DataFrame:
    """One row for every statement of a fact, ``step, fact_id``, from the facts of the sequences in training order."""
    steps = np.arange(len(fact_ids)) // batch_size + 1
    times = [len(facts) for facts in fact_ids]
    facts = pd.Series([fact for facts in fact_ids for fact in facts], dtype="str")
    return pd.DataFrame({"step": np.repeat(steps, times), "fact_id": facts})


def mean_exposures(occurrences: pd.DataFrame, steps: int) -> np.ndarray:
    """Mean number of times that a fact has been stated after each step; entry 0 is before training."""
    return np.bincount(occurrences["step"], minlength=steps + 1).cumsum() / max(1, occurrences["fact_id"].nunique())


def checkpoint_steps(exposures: np.ndarray, count: int, factor: float = 2.0) -> list[int]:
    """Step 0, the last step, and the steps at which mean exposures are the final ones divided by powers of the factor."""
    if exposures[-1] == 0:
        exposures = np.arange(len(exposures))
    selected = {int(np.searchsorted(exposures, exposures[-1] / factor**i)) for i in range(count - 1)}
    return sorted({0, len(exposures) - 1} | selected)


def process_count() -> int:
    """Number of processes that split every batch: those that ``torchrun`` started, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class PaddingCollator:
    """Pads sequences on the right; padding has no loss."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, sequences: Sequence[Sequence[int] | np.ndarray]) -> dict[str, torch.Tensor]:
        """``input_ids, attention_mask, labels``, each (batch, length)."""
        rows = [torch.as_tensor(np.asarray(sequence), dtype=torch.long) for sequence in sequences]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.masked_fill(~mask, IGNORE_INDEX)}


class _SequentialTrainer(Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def floating_point_ops(self, inputs: Any) -> int:
        # Not used here, and it would visit all parameters at every step.
        return 0


class _CheckpointCallback(TrainerCallback):
    """Saves checkpoints for analysis, and stops if the loss is not finite."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, steps: set[int]
    ) -> None:
        self.model, self.tokenizer, self.folder, self.steps = model, tokenizer, folder, steps
        self.start_time = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A resumed job counts on from the seconds of the killed job.
        self.start_time = time.perf_counter() - max((entry.get("seconds", 0) for entry in state.log_history), default=0)

    def save_checkpoint(self, step: int) -> None:
        save_model(merged_copy(self.model), self.tokenizer, self.folder / f"step-{step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step in self.steps and state.is_world_process_zero:
            self.save_checkpoint(state.global_step)
        # Log before the last state is saved, so that no state is saved after a loss that is not finite.
        control.should_log |= state.global_step == state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: dict, **_: Any) -> None:
        if "loss" not in logs:
            return
        # The same dictionary that the log history holds.
        state.log_history[-1]["seconds"] = round(time.perf_counter() - self.start_time, 2)
        logging.info("step %d: loss %.4f", state.global_step, logs["loss"])
        if not math.isfinite(logs["loss"]):
            raise TrainingStopped(
                f"the loss is {logs['loss']} at step {state.global_step}: lower training.learning_rate or "
                "training.muon_learning_rate, or raise training.warmup_fraction"
            )


def add_adapter(model: PreTrainedModel, settings: Training, seed: int) -> Any:
    """The model to train: itself, or with low-rank adapters on every linear layer and all other weights frozen.

    LoRA (Hu et al. 2021): W + 2 B A with B = 0 at first. DoRA (Liu et al. 2024) trains column norms separately.
    """
    if settings.method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(
            model,
            LoraConfig(
                r=settings.r,
                lora_alpha=2 * settings.r,
                target_modules="all-linear",
                use_dora=settings.method == "dora",
            ),
        )


def merged_copy(model: PreTrainedModel) -> Any:
    """A copy of the model with its adapters merged; the model itself if it has none."""
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _training_arguments(settings: Training, steps: int, seed: int, resume: Path, device: str) -> TrainingArguments:
    logging_steps = max(1, min(_LOG_EVERY, steps // 10))
    return TrainingArguments(
        output_dir=str(resume / "trainer"),
        per_device_train_batch_size=settings.batch_size // process_count(),
        max_steps=steps,
        max_grad_norm=settings.max_grad_norm,
        save_strategy="steps",
        # A multiple of the logging steps, so that a resumed job logs means over the same steps.
        save_steps=math.ceil(settings.save_steps / logging_steps) * logging_steps,
        save_total_limit=1,
        logging_steps=logging_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        seed=seed,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device == "cuda",
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and process_count() > 1 else None,
        ddp_find_unused_parameters=False,
    )


def _write_order(sequences: pd.DataFrame, order: np.ndarray, batch_size: int, path: Path) -> None:
    frame = pd.DataFrame(
        {"step": np.arange(len(order)) // batch_size + 1, "doc_ids": sequences["doc_ids"].to_numpy()[order]}
    )
    write_table(frame, path)


def _exposures_by_step(
    occurrences: pd.DataFrame, steps: Sequence[int], initial_exposures: pd.Series | None = None
) -> pd.DataFrame:
    initial_exposures = pd.Series(dtype=int) if initial_exposures is None else initial_exposures
    facts = np.union1d(occurrences["fact_id"].unique(), initial_exposures.index.to_numpy(dtype=object)).astype(object)
    start = initial_exposures.reindex(facts, fill_value=0)
    counts = [
        occurrences.loc[occurrences["step"] <= step, "fact_id"].value_counts().reindex(facts, fill_value=0) + start
        for step in steps
    ]
    return pd.DataFrame(
        {
            "step": np.repeat(np.array(steps, dtype=int), len(facts)),
            "fact_id": np.tile(facts, len(steps)),
            "exposures": np.concatenate(counts),
        }
    )


def _training_curve(history: list[dict], exposures: np.ndarray, lengths: np.ndarray, batch_size: int) -> pd.DataFrame:
    tokens_read = np.concatenate([[0], np.cumsum(lengths)])
    rows = [
        {
            "step": entry["step"],
            "exposures": exposures[entry["step"]],
            "tokens": int(tokens_read[min(entry["step"] * batch_size, len(lengths))]),
            "loss": entry["loss"],
            "learning_rate": entry["learning_rate"],
            "seconds": entry.get("seconds"),
        }
        for entry in history
        if "loss" in entry
    ]
    return pd.DataFrame(rows, columns=["step", "exposures", "tokens", "loss", "learning_rate", "seconds"])


def prepare_resume_folder(resume: str | Path, fingerprint: dict[str, Any]) -> Path:
    """Prepare the folder of training states; empty it if it belongs to other settings or inputs."""
    folder = Path(resume)
    fingerprint_path, text = folder / "fingerprint.json", json.dumps(fingerprint, sort_keys=True, default=str)
    if folder.exists() and not (fingerprint_path.exists() and fingerprint_path.read_text() == text):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint_path.write_text(text)
    return folder
