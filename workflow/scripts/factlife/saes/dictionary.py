"""Sparse autoencoders and transcoders: their maths, and their files in SAELens' format."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from factlife.config.saes import Sae
from factlife.models.anatomy import anatomy
from factlife.saes.activations import places

WEIGHTS, SETTINGS = "sae_weights.safetensors", "cfg.json"
_JUMPRELU = ("jumprelu", "jumprelu_transcoder")
_RELU = ("standard", "transcoder")


class CoderError(ValueError):
    """An SAE or transcoder cannot be used; the text says what to do."""


@dataclass
class Coder:
    """A finished sparse autoencoder, or transcoder, on raw activations; decoder rows have length 1.

    Attributes:
        W_enc: (d_in, d_sae).
        b_enc: (d_sae,).
        W_dec: (d_sae, d_out).
        b_dec: (d_out,).
        threshold: (d_sae,); a feature is active where its pre-activation is above it.
        k: features that are kept at each position, the largest ones; None where only the threshold decides.
        transcoder: reads one place and reconstructs another; if not, it reads what it reconstructs, less ``b_dec``.
        metadata: what else its file says: model, site, layer, how it was trained.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor
    k: int | None = None
    transcoder: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def d_in(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    def preactivations(self, x: Tensor) -> Tensor:
        """z, (…, d_sae), from what it reads, (…, d_in).

        Raises:
            CoderError: the width of ``x`` is another.
        """
        if x.shape[-1] != self.d_in:
            raise CoderError(
                f"{self.metadata.get('name', 'this SAE')} reads vectors of width {self.d_in}, not {x.shape[-1]}; "
                "it was trained on another model or site"
            )
        return (x if self.transcoder else x - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """Features' activations, (…, d_sae), from what it reads, (…, d_in)."""
        z = self.preactivations(x)
        a = torch.where(z > self.threshold, z, 0.0)
        return a if self.k is None else top_k(a, self.k)

    def decode(self, a: Tensor) -> Tensor:
        """The reconstruction, (…, d_out), from activations, (…, d_sae)."""
        return a @ self.W_dec + self.b_dec

    def __call__(self, x: Tensor) -> Tensor:
        """The reconstruction, (…, d_out), from what it reads, (…, d_in)."""
        return self.decode(self.encode(x))

    def to(self, device: str) -> Coder:
        """Itself on a device."""
        moved = {name: getattr(self, name).to(device) for name in _NAMES}
        return Coder(**moved, k=self.k, transcoder=self.transcoder, metadata=self.metadata)


_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def top_k(a: Tensor, k: int) -> Tensor:
    """Activations with all but the k largest of each position set to nothing."""
    values, places = a.topk(k, dim=-1)
    return torch.zeros_like(a).scatter(-1, places, values)


def save(coder: Coder, folder: str | Path) -> None:
    """Write a coder as SAELens does (6.x): ``cfg.json`` and ``sae_weights.safetensors``.

    A threshold makes architecture ``jumprelu``, which is also how SAELens saves BatchTopK; without one it is
    ``standard``. SAELens has no TopK transcoder: give those a threshold.

    Raises:
        CoderError: a transcoder with k.
    """
    if coder.transcoder and coder.k is not None:
        raise CoderError("SAELens' format has no TopK transcoder; calibrate a threshold and set k to None")
    architecture = "topk" if coder.k is not None else "jumprelu" if coder.threshold.any() else "standard"
    if coder.transcoder:
        architecture = {"jumprelu": "jumprelu_transcoder", "standard": "transcoder"}[architecture]
    settings = {
        "d_in": coder.d_in,
        "d_sae": coder.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "architecture": architecture,
        "apply_b_dec_to_input": not coder.transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": coder.metadata,
    }
    settings |= {"d_out": coder.W_dec.shape[1]} if coder.transcoder else {}
    settings |= {"k": coder.k, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}
    weights = {name: getattr(coder, name).contiguous().float().cpu() for name in _NAMES}
    if architecture not in _JUMPRELU:
        del weights["threshold"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder) / WEIGHTS)
    (Path(folder) / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")


def about(model: Any, names: Any, settings: Sae, layer: int) -> dict[str, Any]:
    """A coder's metadata: what SAELens wants to know, and how it was trained.

    Args:
        model: the model.
        names: the job's wildcards ``model, seed, sae``.
        settings: of its training.
        layer: of the model.
    """
    place = places(anatomy(model), settings.site)[layer]
    modules = {id(module): name for name, module in model.named_modules()}
    return {
        "name": f"{names.model}/seed-{names.seed}/{names.sae}/layer-{layer}",
        "model_name": names.model,
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": modules[id(place.reads)],
        "hook_name_out": modules[id(place.writes)],
        "hook_reads_input": place.input,
        "prepend_bos": True,
        "context_size": 256,
        "training": settings.model_dump(),
        "layer": layer,
        "model_seed": int(names.seed),
    }


def load(folder: str | Path, device: str = "cpu") -> Coder:
    """Read a coder that ``save`` or SAELens wrote.

    Raises:
        CoderError: a file is missing, or its architecture or settings are ones that are not known here.
    """
    folder = Path(folder)
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            raise CoderError(f"{folder} has no {name}; train it again, or name a layer that there is")
    settings, weights = json.loads((folder / SETTINGS).read_text()), load_file(folder / WEIGHTS, device=device)
    architecture = settings["architecture"]
    if architecture not in (*_JUMPRELU, *_RELU, "topk"):
        raise CoderError(f"{folder} has architecture `{architecture}`, which is not known here")
    transcoder = architecture.endswith("transcoder")
    if settings["apply_b_dec_to_input"] == transcoder or settings["normalize_activations"] != "none":
        raise CoderError(f"{folder} reads scaled or shifted activations; fold that into its weights and save it again")
    weights.setdefault("threshold", torch.zeros_like(weights["b_enc"]))
    metadata = {"name": str(folder)} | settings.get("metadata", {})
    return Coder(
        **{name: weights[name] for name in _NAMES}, k=settings.get("k"), transcoder=transcoder, metadata=metadata
    )


def save_for_circuit_tracer(coders: list[Coder], folder: str | Path) -> None:
    """Write transcoders as a set that circuit-tracer reads: ``config.yaml``, and ``layer_{layer}.safetensors`` for each."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for layer, coder in enumerate(coders):
        weights = {name: weight.contiguous().cpu() for name, weight in circuit_tracer_weights(coder).items()}
        save_file(weights, Path(folder) / f"layer_{layer}.safetensors")
    settings = {
        "model_name": coders[0].metadata.get("model_name", ""),
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": str(coders[0].metadata.get("name", "")).removesuffix("/layer-0").replace("/", "-"),
        "transcoders": [f"layer_{layer}.safetensors" for layer in range(len(coders))],
    }
    # JSON is YAML.
    (Path(folder) / "config.yaml").write_text(json.dumps(settings, indent=1) + "\n")


def load_all(folder: str | Path, device: str = "cpu") -> list[Coder]:
    """Read the coders of all layers from ``{folder}/layer-{layer}``.

    Raises:
        CoderError: see ``load``.
    """
    count = len(list(Path(folder).glob("layer-*")))
    return [load(Path(folder) / f"layer-{layer}", device) for layer in range(count)]


def circuit_tracer_weights(coder: Coder) -> dict[str, Tensor]:
    """A transcoder's weights as circuit-tracer reads them: encoder transposed, its own name for the threshold."""
    names = {"b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "activation_function.threshold"}
    return {"W_enc": coder.W_enc.T.contiguous()} | {theirs: getattr(coder, ours) for ours, theirs in names.items()}
