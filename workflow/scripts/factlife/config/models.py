"""Models: their sources, their training, and the stages that they go through."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, key
from factlife.config.circuits import Circuits
from factlife.config.collapse import ModelCollapse
from factlife.config.dictionaries import ModelDictionaries
from factlife.config.editing import ModelEditing
from factlife.config.graphs import Graphs
from factlife.config.influence import InfluenceSettings
from factlife.config.tracing import Tracing
from factlife.config.training import Source, Training

Stage = Literal["recall", "tracing", "circuits", "saes", "graphs", "editing", "influence", "collapse"]


class Stages(Section):
    """Settings of stages, one section for each."""

    tracing: Tracing | None = key(None, "Causal tracing of facts.")
    circuits: Circuits | None = key(None, "Discovery and validation of relations' circuits.")
    saes: ModelDictionaries | None = key(None, "Sparse autoencoders and transcoders to train.")
    graphs: Graphs | None = key(None, "Attribution graphs of facts.")
    editing: ModelEditing | None = key(None, "Edits, and whether they survive fine-tuning.")
    influence: InfluenceSettings | None = key(None, "Rankings of training documents.")
    collapse: ModelCollapse | None = key(None, "Generations of models trained on their own text.")


class Model(Stages):
    """A model, the world of its facts, its training, and the stages that it goes through."""

    world: Name | None = key(
        None, "World of the facts; only a model whose requests for edits come from a file can do without one."
    )
    source: Source = key(..., "Source of the model.")
    adapter: str | None = key(None, "Folder of a PEFT adapter (LoRA, DoRA) to merge into the weights.")
    tokenizer: Name | None = key(
        None, "Tokenizer of this config for a model from scratch; a pretrained model has its own."
    )
    training: Training | None = key(None, "Training; null uses the model as it is.")
    stages: list[Stage] = key(["recall"], "Stages that the model goes through when it is in `run.models`.")
    seeds: list[Annotated[int, Field(ge=0)]] = key([0], "Seeds; one model is made per seed.", min_length=1)
    gpu: int = key(0, "GPUs per node for training, with one process each; other jobs of this model use one GPU.", ge=0)
    processes: Count = key(
        1,
        "Training processes per node without GPUs. They split every batch and have `run.threads` threads each.",
    )
    nodes: Count = key(1, "Nodes for training under Slurm.")
    batch_tokens: Count | None = key(
        None,
        "Tokens per forward pass, including padding; null chooses a number that fits the size of the model. Results depend on "
        "it only in the last digits.",
    )

    @property
    def n_processes(self) -> int:
        """Number of training processes, which split every batch."""
        return max(self.gpu, self.processes) * self.nodes
