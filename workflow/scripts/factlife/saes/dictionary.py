"""Sparse autoencoders and transcoders: their maths, and their files in SAELens' format."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from factlife.config.dictionaries import DictionarySettings
from factlife.models.anatomy import anatomy
from factlife.saes.activations import dictionary_sites

WEIGHTS_FILE, CONFIG_FILE = "sae_weights.safetensors", "cfg.json"
_JUMPRELU = ("jumprelu", "jumprelu_transcoder")
_RELU = ("standard", "transcoder")


class DictionaryError(ValueError):
    """An SAE or transcoder cannot be used; the text says what to do."""


@dataclass
class Dictionary:
    """A finished sparse autoencoder, or transcoder, on raw activations; decoder rows have length 1.

    Attributes:
        W_enc: (d_in, d_sae).
        b_enc: (d_sae,).
        W_dec: (d_sae, d_out).
        b_dec: (d_out,).
        threshold: (d_sae,); a feature is active where its pre-activation is above it.
        k: features that are kept at each position, the largest ones; None where only the threshold decides.
        is_transcoder: reads one place and reconstructs another; if not, it reads what it reconstructs, less ``b_dec``.
        metadata: what else its file says: model, site, layer, how it was trained.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor
    k: int | None = None
    is_transcoder: bool = False
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
            DictionaryError: the width of ``x`` is another.
        """
        if x.shape[-1] != self.d_in:
            raise DictionaryError(
                f"{self.metadata.get('name', 'this SAE')} reads vectors of width {self.d_in}, not {x.shape[-1]}; "
                "it was trained on another model or site"
            )
        return (x if self.is_transcoder else x - self.b_dec) @ self.W_enc + self.b_enc

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

    def to(self, device: str) -> Dictionary:
        """Itself on a device."""
        moved = {name: getattr(self, name).to(device) for name in _NAMES}
        return Dictionary(**moved, k=self.k, is_transcoder=self.is_transcoder, metadata=self.metadata)


_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def top_k(a: Tensor, k: int) -> Tensor:
    """Activations with all but the k largest of each position set to nothing."""
    values, places = a.topk(k, dim=-1)
    return torch.zeros_like(a).scatter(-1, places, values)


def save_dictionary(dictionary: Dictionary, folder: str | Path) -> None:
    """Write a dictionary as SAELens does (6.x): ``cfg.json`` and ``sae_weights.safetensors``.

    A threshold makes architecture ``jumprelu``, which is also how SAELens saves BatchTopK; without one it is
    ``standard``. SAELens has no TopK transcoder: give those a threshold.

    Raises:
        DictionaryError: a transcoder with k.
    """
    if dictionary.is_transcoder and dictionary.k is not None:
        raise DictionaryError("SAELens' format has no TopK transcoder; calibrate a threshold and set k to None")
    architecture = "topk" if dictionary.k is not None else "jumprelu" if dictionary.threshold.any() else "standard"
    if dictionary.is_transcoder:
        architecture = {"jumprelu": "jumprelu_transcoder", "standard": "transcoder"}[architecture]
    settings = {
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "architecture": architecture,
        "apply_b_dec_to_input": not dictionary.is_transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": dictionary.metadata,
    }
    settings |= {"d_out": dictionary.W_dec.shape[1]} if dictionary.is_transcoder else {}
    settings |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}
    weights = {name: getattr(dictionary, name).contiguous().float().cpu() for name in _NAMES}
    if architecture not in _JUMPRELU:
        del weights["threshold"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder) / WEIGHTS_FILE)
    (Path(folder) / CONFIG_FILE).write_text(json.dumps(settings, indent=1) + "\n")


def dictionary_metadata(model: Any, names: Any, settings: DictionarySettings, layer: int) -> dict[str, Any]:
    """A dictionary's metadata: what SAELens wants to know, and how it was trained.

    Args:
        model: the model.
        names: the job's wildcards ``model, seed, sae``.
        settings: of its training.
        layer: of the model.
    """
    place = dictionary_sites(anatomy(model), settings.site)[layer]
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


def load_dictionary(folder: str | Path, device: str = "cpu") -> Dictionary:
    """Read a dictionary that ``save_dictionary`` or SAELens wrote.

    Raises:
        DictionaryError: a file is missing, or its architecture or settings are ones that are not known here.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise DictionaryError(f"{folder} has no {name}; train it again, or name a layer that there is")
    settings, weights = json.loads((folder / CONFIG_FILE).read_text()), load_file(folder / WEIGHTS_FILE, device=device)
    architecture = settings["architecture"]
    if architecture not in (*_JUMPRELU, *_RELU, "topk"):
        raise DictionaryError(f"{folder} has architecture `{architecture}`, which is not known here")
    transcoder = architecture.endswith("transcoder")
    if settings["apply_b_dec_to_input"] == transcoder or settings["normalize_activations"] != "none":
        raise DictionaryError(
            f"{folder} reads scaled or shifted activations; fold that into its weights and save it again"
        )
    weights.setdefault("threshold", torch.zeros_like(weights["b_enc"]))
    metadata = {"name": str(folder)} | settings.get("metadata", {})
    return Dictionary(
        **{name: weights[name] for name in _NAMES}, k=settings.get("k"), is_transcoder=transcoder, metadata=metadata
    )


def save_for_circuit_tracer(dictionaries: list[Dictionary], folder: str | Path) -> None:
    """Write transcoders as a set that circuit-tracer reads: ``config.yaml``, and ``layer_{layer}.safetensors`` for each."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for layer, dictionary in enumerate(dictionaries):
        weights = {name: weight.contiguous().cpu() for name, weight in circuit_tracer_weights(dictionary).items()}
        save_file(weights, Path(folder) / f"layer_{layer}.safetensors")
    settings = {
        "model_name": dictionaries[0].metadata.get("model_name", ""),
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": str(dictionaries[0].metadata.get("name", "")).removesuffix("/layer-0").replace("/", "-"),
        "transcoders": [f"layer_{layer}.safetensors" for layer in range(len(dictionaries))],
    }
    # JSON is YAML.
    (Path(folder) / "config.yaml").write_text(json.dumps(settings, indent=1) + "\n")


def load_dictionaries(folder: str | Path, device: str = "cpu") -> list[Dictionary]:
    """Read the dictionaries of all layers from ``{folder}/layer-{layer}``.

    Raises:
        DictionaryError: see ``load_dictionary``.
    """
    count = len(list(Path(folder).glob("layer-*")))
    return [load_dictionary(Path(folder) / f"layer-{layer}", device) for layer in range(count)]


def circuit_tracer_weights(dictionary: Dictionary) -> dict[str, Tensor]:
    """A transcoder's weights as circuit-tracer reads them: encoder transposed, its own name for the threshold."""
    names = {"b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "activation_function.threshold"}
    return {"W_enc": dictionary.W_enc.T.contiguous()} | {
        theirs: getattr(dictionary, ours) for ours, theirs in names.items()
    }
