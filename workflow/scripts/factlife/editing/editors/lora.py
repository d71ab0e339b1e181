"""LoRA (Hu et al. 2022): fine-tune low-rank changes of linear maps, and merge them."""

from __future__ import annotations

import copy
from typing import Any

import pandas as pd
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from factlife.config.editing import Lora
from factlife.editing.editable import Deltas, EditableModel
from factlife.editing.editors.tuning import finetune_weights, training_sequences


def edit(target: EditableModel, requests: pd.DataFrame, settings: Lora, memory: Any) -> Deltas:
    """Changes of all linear maps of some blocks: ΔW = (α / r) B A, B = 0 at first."""
    made, layers = training_sequences(target, requests, end=settings.append_eos), settings.layers
    blocks = [target.layer(layer) for layer in (range(len(target.parts.blocks)) if layers is None else layers)]
    inside = {id(part) for block in blocks for part in target.parts.blocks[block].module.modules()}
    linear = {
        name: part
        for name, part in target.model.named_modules()
        if id(part) in inside and isinstance(part, (nn.Linear, Conv1D))
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        adapter = LoraConfig(
            r=settings.r, lora_alpha=settings.lora_alpha, target_modules=list(linear),
            fan_in_fan_out=any(isinstance(part, Conv1D) for part in linear.values()),
        )  # fmt: skip
        tuned = inject_adapter_in_model(adapter, copy.deepcopy(target.model))
    finetune_weights(
        tuned, made, [parameter for parameter in tuned.parameters() if parameter.requires_grad],
        epochs=settings.epochs, batch_size=settings.batch_size, learning_rate=settings.learning_rate, pad_token_id=target.tokenizer.pad_token_id or 0,
    )  # fmt: skip
    return {
        f"{name}.weight": part.get_delta_weight("default").detach().to(linear[name].weight)
        for name, part in tuned.named_modules()
        if isinstance(part, LoraLayer)
    }
