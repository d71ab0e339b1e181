"""Sparse autoencoders and transcoders, and their files in the formats of SAELens and circuit-tracer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from factlife.config.dictionaries import DictionarySettings
from factlife.models.anatomy import get_anatomy
from factlife.saes.activations import dictionary_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS_FILE, CONFIG_FILE = "sae_weights.safetensors", "cfg.json"
_JUMPRELU = ("jumprelu", "jumprelu_transcoder")
_RELU = ("standard", "transcoder")


class DictionaryError(ValueError):
    """An SAE or transcoder cannot be used; the message names the remedy."""


@dataclass
class Dictionary:
    """A trained sparse autoencoder or transcoder on unscaled activations; decoder rows have unit norm.

    Attributes:
        W_enc: (d_in, d_sae).
        b_enc: (d_sae,).
        W_dec: (d_sae, d_out).
        b_dec: (d_out,).
        threshold: (d_sae,); a feature is active if its pre-activation exceeds the threshold.
        k: number of features to keep at each position, the largest ones; None if only the threshold decides.
        is_transcoder: whether input and target differ; an SAE subtracts ``b_dec`` from its input.
        metadata: further entries of its file: model, site, layer, training settings.
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
        """Input dimension."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    def preactivations(self, x: Tensor) -> Tensor:
        """Pre-activations z, (…, d_sae), from the input, (…, d_in).

        Raises:
            DictionaryError: ``x`` has another width than the dictionary's input.
        """
        if x.shape[-1] != self.d_in:
            raise DictionaryError(
                f"{self.metadata.get('name', 'this SAE')} reads vectors of width {self.d_in}, not {x.shape[-1]}; "
                "it was trained on another model or site"
            )
        return (x if self.is_transcoder else x - self.b_dec) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        """Feature activations, (…, d_sae), from the input, (…, d_in)."""
        z = self.preactivations(x)
        a = torch.where(z > self.threshold, z, 0.0)
        return a if self.k is None else top_k(a, self.k)

    def decode(self, a: Tensor) -> Tensor:
        """Reconstruction, (…, d_out), from feature activations, (…, d_sae)."""
        return a @ self.W_dec + self.b_dec

    def __call__(self, x: Tensor) -> Tensor:
        """Reconstruction, (…, d_out), from the input, (…, d_in)."""
        return self.decode(self.encode(x))

    def to(self, device: str) -> Dictionary:
        """A copy on a device."""
        weights = {name: getattr(self, name).to(device) for name in _WEIGHTS}
        return Dictionary(**weights, k=self.k, is_transcoder=self.is_transcoder, metadata=self.metadata)


_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


def top_k(a: Tensor, k: int) -> Tensor:
    """Keep the k largest activations of each position and set all others to 0."""
    values, indices = a.topk(k, dim=-1)
    return torch.zeros_like(a).scatter(-1, indices, values)


def save_dictionary(dictionary: Dictionary, folder: str | Path) -> None:
    """Write a dictionary in SAELens' format (6.x): ``cfg.json`` and ``sae_weights.safetensors``.

    A dictionary with thresholds has architecture ``jumprelu``, which SAELens also uses for BatchTopK; one without has
    ``standard``. SAELens has no TopK transcoder, so these need a threshold.

    Raises:
        DictionaryError: a transcoder has a ``k``.
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
    weights = {name: getattr(dictionary, name).contiguous().float().cpu() for name in _WEIGHTS}
    if architecture not in _JUMPRELU:
        del weights["threshold"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder) / WEIGHTS_FILE)
    (Path(folder) / CONFIG_FILE).write_text(json.dumps(settings, indent=1) + "\n")


def dictionary_metadata(model: PreTrainedModel, names: Any, settings: DictionarySettings, layer: int) -> dict[str, Any]:
    """Metadata of a dictionary's file: the entries that SAELens reads, and the training settings.

    Args:
        model: the model.
        names: the job's wildcards ``model, seed, sae``.
        settings: settings of the training.
        layer: layer of the model.
    """
    site = dictionary_sites(get_anatomy(model), settings.site)[layer]
    modules = {id(module): name for name, module in model.named_modules()}
    return {
        "name": f"{names.model}/seed-{names.seed}/{names.sae}/layer-{layer}",
        "model_name": names.model,
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": modules[id(site.input_module)],
        "hook_name_out": modules[id(site.output_module)],
        "hook_reads_input": site.reads_input,
        "prepend_bos": True,
        "context_size": 256,
        "training": settings.model_dump(),
        "layer": layer,
        "model_seed": int(names.seed),
    }


def load_dictionary(folder: str | Path, device: str = "cpu") -> Dictionary:
    """Read a dictionary from a folder that ``save_dictionary`` or SAELens wrote.

    Raises:
        DictionaryError: a file is missing, or the architecture or a setting is not supported.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise DictionaryError(f"{folder} has no {name}; train it again, or name a layer that exists")
    settings, weights = json.loads((folder / CONFIG_FILE).read_text()), load_file(folder / WEIGHTS_FILE, device=device)
    architecture = settings["architecture"]
    if architecture not in (*_JUMPRELU, *_RELU, "topk"):
        raise DictionaryError(
            f"{folder} has architecture `{architecture}`, which is not supported; there are "
            f"{', '.join([*_JUMPRELU, *_RELU, 'topk'])}"
        )
    is_transcoder = architecture.endswith("transcoder")
    if settings["apply_b_dec_to_input"] == is_transcoder or settings["normalize_activations"] != "none":
        raise DictionaryError(
            f"{folder} expects scaled or shifted activations; fold the scale into its weights and save it again"
        )
    weights.setdefault("threshold", torch.zeros_like(weights["b_enc"]))
    metadata = {"name": str(folder)} | settings.get("metadata", {})
    return Dictionary(
        **{name: weights[name] for name in _WEIGHTS},
        k=settings.get("k"),
        is_transcoder=is_transcoder,
        metadata=metadata,
    )


def save_for_circuit_tracer(transcoders: list[Dictionary], folder: str | Path) -> None:
    """Write transcoders as a set for circuit-tracer: ``config.yaml``, and one ``layer_{layer}.safetensors`` per layer."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for layer, transcoder in enumerate(transcoders):
        weights = {name: weight.contiguous().cpu() for name, weight in circuit_tracer_weights(transcoder).items()}
        save_file(weights, Path(folder) / f"layer_{layer}.safetensors")
    settings = {
        "model_name": transcoders[0].metadata.get("model_name", ""),
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": str(transcoders[0].metadata.get("name", "")).removesuffix("/layer-0").replace("/", "-"),
        "transcoders": [f"layer_{layer}.safetensors" for layer in range(len(transcoders))],
    }
    # JSON is valid YAML.
    (Path(folder) / "config.yaml").write_text(json.dumps(settings, indent=1) + "\n")


def load_dictionaries(folder: str | Path, device: str = "cpu") -> list[Dictionary]:
    """Read the dictionaries of all layers from ``{folder}/layer-{layer}``.

    Raises:
        DictionaryError: a file is missing, or the architecture or a setting is not supported.
    """
    n_layers = len(list(Path(folder).glob("layer-*")))
    return [load_dictionary(Path(folder) / f"layer-{layer}", device) for layer in range(n_layers)]


def circuit_tracer_weights(transcoder: Dictionary) -> dict[str, Tensor]:
    """A transcoder's weights under circuit-tracer's names, with the encoder transposed."""
    names = {"b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "activation_function.threshold"}
    weights = {circuit_tracer_name: getattr(transcoder, name) for name, circuit_tracer_name in names.items()}
    return {"W_enc": transcoder.W_enc.T.contiguous()} | weights
