"""The originals' hyper-parameters, by editor and model: what the methods' own repositories use.

Sources: the hyper-parameter files of ROME (Meng et al. 2022), MEMIT (Meng et al. 2023), AlphaEdit (Fang et al. 2025),
ENCORE (Gupta et al. 2025, 2502.01636) and EasyEdit; LocFT-BF's paper (2509.22072), and UltraEdit's script for zsRE (2505.14679).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _values(steps: int, rate: float, decay: float, clamp: float, *, scale: str = "stream") -> dict[str, Any]:
    """Of target values; the contexts are MEMIT's five, or ROME's twenty, beside the bare prompt."""
    return {
        "units": "absolute", "scale": scale, "steps": steps, "rate": rate, "decay": decay, "clamp": clamp, "kl": 0.0625,
        "kl_over": "essence", "stop": 0.05, "contexts": 20 if scale == "mlp" else 5, "joint": False,
    }  # fmt: skip


def _place(first: int, last: int | None = None) -> dict[str, Any]:
    return {"token": "subject_last", "layers": list(range(first, (first if last is None else last) + 1))}


def _rome(layer: int, clamp: float = 4, *, steps: int = 20, decay: float = 0.5, spare: bool = True) -> dict[str, Any]:
    return {"place": _place(layer), "values": _values(steps, 0.5, decay, clamp, scale="mlp"), "spare": spare}


_SPREAD: dict[str, dict[str, Any]] = {
    "gpt2-xl": {"place": _place(13, 17), "values": _values(20, 0.5, 0.5, 0.75)},
    "gpt-j": {"place": _place(3, 8), "values": _values(25, 0.5, 0.5, 0.75)},
    "llama-3-8b": {"place": _place(4, 8), "values": _values(25, 0.1, 0.5, 0.75)},
    "llama-2-7b": {"place": _place(4, 8), "values": _values(25, 0.5, 1e-3, 4)},
    "llama-3.2-3b": {"place": _place(4, 8), "values": _values(25, 0.5, 1e-3, 4)},
    "qwen-2.5-7b": {"place": _place(4, 8), "values": _values(25, 0.5, 1e-3, 4)},
}
_COUNTS = {"gpt2-xl": 20000.0}
_BATCHES = {"kind": "sequential", "edits": 2000, "batch": 100}


def _encore(model: str, ridge: float, patience: int) -> dict[str, Any]:
    """MPES and ridge on MEMIT that spares past keys; rates and norms are ENCORE's."""
    rate = {"rate": 0.5, "decay": 0.5, "clamp": 0.75, "argmax": patience}
    return {
        "place": _SPREAD[model]["place"],
        "values": _SPREAD[model]["values"] | rate,
        "weight": _COUNTS.get(model, 15000.0),
        "schedule": _BATCHES,
        "remember": True,
        "ridge": ridge,
    }


def _ft(limit: float) -> dict[str, Any]:
    return {"layer": 0, "steps": 25, "rate": 5e-4, "units": "absolute", "limit": limit, "stop": 1e-2, "batch": 1}


def _modules(*groups: tuple[str, int, int]) -> dict[str, Any]:
    """Of UltraEdit: names of linear maps in some blocks, first and last."""
    return {
        "modules": [name.format(layer) for name, first, last in groups for layer in range(first, last + 1)],
        "units": "absolute", "rate": 1e-6, "ridge": 1.0, "schedule": {"kind": "sequential", "edits": 20000, "batch": 100},
    }  # fmt: skip


_UP, _GATE = "model.layers.{}.mlp.up_proj", "model.layers.{}.mlp.gate_proj"

PRESETS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "rome": {
        "gpt2-medium": _rome(8, 3),
        "gpt2-large": _rome(12),
        "gpt2-xl": _rome(17),
        "gpt-j": _rome(5),
        "gpt-neox-20b": _rome(15),
        "llama-3-8b": _rome(5, steps=25, decay=1e-3, spare=False),
    },
    "memit": {model: one | {"weight": _COUNTS.get(model, 15000.0)} for model, one in _SPREAD.items()}
    | {
        "encore-gpt2-xl": _encore("gpt2-xl", 10, 4),
        "encore-llama-2-7b": _encore("llama-2-7b", 10, 3),
        "encore-llama-3-8b": _encore("llama-3-8b", 20, 2),
    },
    "alphaedit": {
        model: _SPREAD[model] | {"weight": 10.0, "threshold": 2e-2, "schedule": _BATCHES}
        for model in ("gpt2-xl", "gpt-j", "llama-3-8b")
    },
    "emmet": {model: one | {"weight": 0.1} for model, one in _SPREAD.items() if model in ("gpt2-xl", "gpt-j")},
    "ft": {"gpt2-medium": _ft(2e-3), "gpt2-large": _ft(1e-3), "gpt2-xl": _ft(5e-4), "gpt-j": _ft(5e-5)},
    "locft": {"llama-3-8b": {"layer": 22, "rate": 5e-4, "batch": 100, "epochs": 25, "end": True}},
    "ultraedit": {
        "gpt-j": _modules(("transformer.h.{}.mlp.fc_out", 18, 26)),
        "llama-3-8b": _modules((_GATE, 11, 15), (_UP, 18, 24)),
        "mistral-7b": _modules(("model.layers.{}.mlp.down_proj", 29, 30)),
        "qwen-2.5-7b": _modules((_UP, 18, 26), (_GATE, 18, 26)),
    },
    "lora": {"easyedit": {"rank": 8, "alpha": 32, "rate": 5e-3, "epochs": 70}},
}


def with_preset(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a user gave for an editor, over the values of the preset that it names.

    Raises:
        ValueError: there is no such preset of this editor.
    """
    name, known = given["preset"], PRESETS.get(kind, {})
    if name not in known:
        raise ValueError(f"`{name}` is no preset of {kind}; there are {', '.join(known) or 'none'}")
    return _over(known[name], given)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge, all else replaces."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(merged.get(name), Mapping) and isinstance(value, Mapping)
        merged[name] = _over(merged[name], value) if both else value
    return merged
