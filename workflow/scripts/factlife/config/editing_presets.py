"""Published hyper-parameters by editor and model, from the repositories of the methods.

Sources: the hyper-parameter files of ROME (Meng et al. 2022), MEMIT (Meng et al. 2023), AlphaEdit (Fang et al. 2025), EMMET,
ENCORE (Gupta et al. 2025, 2502.01636) and EasyEdit; LocFT-BF's paper (2509.22072), and UltraEdit's script for zsRE (2505.14679).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _values(
    steps: int, v_lr: float, v_weight_decay: float, clamp: float, *, norm_site: str = "residual"
) -> dict[str, Any]:
    """Settings of target vectors; MEMIT has five context templates besides the bare prompt, ROME twenty."""
    return {
        "units": "published", "norm_site": norm_site, "v_num_grad_steps": steps, "v_lr": v_lr,
        "v_weight_decay": v_weight_decay, "clamp_norm_factor": clamp, "kl_factor": 0.0625, "kl_prompts": "essence",
        "v_loss_threshold": 0.05, "n_context_templates": 20 if norm_site == "mlp" else 5, "one_vector_per_subject": False,
    }  # fmt: skip


def _site(first: int, last: int | None = None) -> dict[str, Any]:
    return {"fact_token": "subject_last", "layers": list(range(first, (first if last is None else last) + 1))}


def _rome(
    layer: int, clamp: float = 4, *, steps: int = 20, v_weight_decay: float = 0.5, mom2_adjustment: bool = True
) -> dict[str, Any]:
    values = _values(steps, 0.5, v_weight_decay, clamp, norm_site="mlp")
    return _site(layer) | {"values": values, "mom2_adjustment": mom2_adjustment}


_MEMIT: dict[str, dict[str, Any]] = {
    "gpt2-xl": _site(13, 17) | {"values": _values(20, 0.5, 0.5, 0.75)},
    "gpt-j": _site(3, 8) | {"values": _values(25, 0.5, 0.5, 0.75)},
    "llama-3-8b": _site(4, 8) | {"values": _values(25, 0.1, 0.5, 0.75)},
    "llama-2-7b": _site(4, 8) | {"values": _values(25, 0.5, 1e-3, 4)},
    "llama-3.2-3b": _site(4, 8) | {"values": _values(25, 0.5, 1e-3, 4)},
    "qwen-2.5-7b": _site(4, 8) | {"values": _values(25, 0.5, 1e-3, 4)},
}
_MOM2_UPDATE_WEIGHTS = {"gpt2-xl": 20000.0}
_BATCHES = {"kind": "sequential", "n_edits": 2000, "edits_per_batch": 100}


def _encore(model: str, update_norm_lambda: float, argmax_patience: int) -> dict[str, Any]:
    """MPES and ridge on sequential MEMIT; learning rates and norms are ENCORE's."""
    values = {"v_lr": 0.5, "v_weight_decay": 0.5, "clamp_norm_factor": 0.75, "argmax_patience": argmax_patience}
    return _MEMIT[model] | {
        "values": _MEMIT[model]["values"] | values,
        "mom2_update_weight": _MOM2_UPDATE_WEIGHTS.get(model, 15000.0),
        "schedule": _BATCHES,
        "preserve_previous_edits": True,
        "update_norm_lambda": update_norm_lambda,
    }


def _ft(norm_constraint: float) -> dict[str, Any]:
    return {
        "layer": 0, "num_steps": 25, "learning_rate": 5e-4, "units": "published", "norm_constraint": norm_constraint,
        "loss_threshold": 1e-2, "batch_size": 1,
    }  # fmt: skip


def _ultraedit(*groups: tuple[str, int, int]) -> dict[str, Any]:
    """Settings for groups of linear maps: a name with a gap for the block, and the first and last block."""
    return {
        "modules": [name.format(layer) for name, first, last in groups for layer in range(first, last + 1)],
        "units": "published", "learning_rate": 1e-6, "ridge": 1.0,
        "schedule": {"kind": "sequential", "n_edits": 20000, "edits_per_batch": 100},
    }  # fmt: skip


_UP, _GATE = "model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.gate_proj"

PRESETS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "rome": {
        "gpt2-medium": _rome(8, 3),
        "gpt2-large": _rome(12),
        "gpt2-xl": _rome(17),
        "gpt-j": _rome(5),
        "gpt-neox-20b": _rome(15),
        "llama-3-8b": _rome(5, steps=25, v_weight_decay=1e-3, mom2_adjustment=False),
    },
    "memit": {
        model: settings | {"mom2_update_weight": _MOM2_UPDATE_WEIGHTS.get(model, 15000.0)}
        for model, settings in _MEMIT.items()
    }
    | {
        "encore-gpt2-xl": _encore("gpt2-xl", 10, 4),
        "encore-llama-2-7b": _encore("llama-2-7b", 10, 3),
        "encore-llama-3-8b": _encore("llama-3-8b", 20, 2),
    },
    "alphaedit": {
        model: _MEMIT[model] | {"L2": 10.0, "nullspace_threshold": 2e-2, "schedule": _BATCHES}
        for model in ("gpt2-xl", "gpt-j", "llama-3-8b")
    },
    "emmet": {
        model: _MEMIT[model] | _site(layer) | {"emmet_lambda": 0.1} for model, layer in (("gpt2-xl", 17), ("gpt-j", 5))
    },
    "ft": {"gpt2-medium": _ft(2e-3), "gpt2-large": _ft(1e-3), "gpt2-xl": _ft(5e-4), "gpt-j": _ft(5e-5)},
    "locft": {"llama-3-8b": {"layer": 22, "learning_rate": 5e-4, "batch_size": 100, "epochs": 25, "append_eos": True}},
    "ultraedit": {
        "gpt-j": _ultraedit(("transformer.h.{}.mlp.fc_out", 18, 26)),
        "llama-3-8b": _ultraedit((_GATE, 11, 15), (_UP, 18, 24)),
        "mistral-7b": _ultraedit(("model.layers.{}.mlp.down_proj", 29, 30)),
        "qwen-2.5-7b": _ultraedit((_UP, 18, 26), (_GATE, 18, 26)),
    },
    "lora": {"easyedit": {"r": 8, "lora_alpha": 32, "learning_rate": 5e-3, "epochs": 70}},
}


def with_preset(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A user's settings of an editor, merged over the values of the preset that they name.

    Raises:
        ValueError: this editor has no such preset.
    """
    name, presets = settings["preset"], PRESETS.get(kind, {})
    if name not in presets:
        raise ValueError(f"`{name}` is no preset of {kind}; there are {', '.join(presets) or 'none'}")
    return _merge(presets[name], settings)


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; any other value of ``override`` replaces that of ``base``."""
    merged = dict(base)
    for name, value in override.items():
        both = isinstance(merged.get(name), Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged
