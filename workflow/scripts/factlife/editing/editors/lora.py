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
    """Changes of all linear maps of some blocks: ΔW = (α / r) B A, with B = 0 initially."""
    sequences = training_sequences(target, requests, append_eos=settings.append_eos)
    layers = range(len(target.parts.blocks)) if settings.layers is None else settings.layers
    blocks = [target.parts.blocks[target.layer_index(layer)].module for layer in layers]
    inner_modules = {id(module) for block in blocks for module in block.modules()}
    linear = {
        name: module
        for name, module in target.model.named_modules()
        if id(module) in inner_modules and isinstance(module, (nn.Linear, Conv1D))
    }
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        adapter = LoraConfig(
            r=settings.r, lora_alpha=settings.lora_alpha, target_modules=list(linear),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
        )  # fmt: skip
        adapted = inject_adapter_in_model(adapter, copy.deepcopy(target.model))
    finetune_weights(
        adapted, sequences, [parameter for parameter in adapted.parameters() if parameter.requires_grad],
        epochs=settings.epochs, batch_size=settings.batch_size, learning_rate=settings.learning_rate,
        pad_token_id=target.tokenizer.pad_token_id or 0,
    )  # fmt: skip
    return {
        f"{name}.weight": module.get_delta_weight("default").detach().to(linear[name].weight)
        for name, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
    }
