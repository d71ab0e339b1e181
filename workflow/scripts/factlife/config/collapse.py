"""Collapse: models trained for several generations on text that earlier generations generated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, Share, key, missing
from factlife.config.training import Training

if TYPE_CHECKING:
    from factlife.config import Config


class Sampler(Section):
    """Decoding settings. They replace all defaults in a model's own generation config."""

    renamed: ClassVar[dict[str, str]] = {
        "beams": "num_beams",
        "new_tokens": "max_new_tokens",
        "chat": "chat_instruction",
    }

    method: Literal["sample", "greedy", "beam"] = key(
        "sample", "`sample`: draw each token; `greedy`: take the most probable token; `beam`: beam search."
    )
    temperature: float = key(1.0, "Sampling temperature.", gt=0)
    top_p: float = key(
        1.0, "Nucleus sampling: probability mass of the most probable tokens to sample from.", gt=0, le=1
    )
    num_beams: Annotated[int, Field(ge=2)] = key(5, "Beams of method `beam`.")
    prompt_tokens: int = key(0, "Tokens of a real document to use as the prompt; 0 to generate without a prompt.", ge=0)
    keep_prompt: bool = key(True, "Whether a generated text includes its prompt.")
    chat_instruction: str | None = key(
        None,
        "Instruction to put before each prompt, in the tokenizer's chat template; null uses no chat template.",
    )
    max_new_tokens: Count = key(96, "Maximum number of tokens to generate.")
    batch_tokens: Count = key(32768, "Tokens in a batch, new tokens included; does not change the samples.")


class GenerationTraining(Training):
    """Training settings of one generation, with defaults that differ from a model's own training."""

    corpus: Name | None = key(  # type: ignore[assignment]  # filled in by `model_arms`
        None, "Corpus of the real documents; null takes the corpus on which the model was trained."
    )
    epochs: float = key(  # type: ignore[assignment]  # wider than the whole number of `Training`
        1.0,
        "Passes over as many documents as `documents`, whatever the size of the corpus, so that all arms take the same number of "
        "steps; with mode `accumulate`, passes over all accumulated documents.",
        gt=0,
    )
    group_by_length: bool = key(
        False,
        "Put texts of similar length into a batch. This gives more weight to the tokens of short texts, so that each generation "
        "would generate shorter texts than it was trained on.",
    )
    learning_rate: float = key(0.001, "Learning rate of AdamW.", gt=0)
    muon_learning_rate: float = key(0.005, "Learning rate of Muon.", gt=0)
    checkpoints: Literal[1] = key(1, "Only the final model of a generation is saved.")


class CollapseArm(Section):
    """A chain of generations, each trained on the previous generation's text, on real text, or on both."""

    renamed: ClassVar[dict[str, str]] = {
        "synthetic_share": "synthetic_fraction",
        "start": "init_from",
        "block_tokens": "block_size",
        "held_out": "held_out_documents",
        "asked": "probed_facts",
        "tests": "tasks",
    }
    moved: ClassVar[dict[str, str]] = {
        "model": "models.*.collapse.arms",
        "judge": "models.*.collapse.perplexity_model",
        "perplexity_model": "models.*.collapse.perplexity_model",
    }

    generations: Count = key(4, "Number of generations after generation 0.")
    synthetic_fraction: Share = key(
        1.0, "Fraction of each generation's new documents that the previous generation generated; 0 for a control."
    )
    mode: Literal["replace", "accumulate", "accumulate-subsample"] = key(
        "replace",
        "`replace`: train on the new documents only; `accumulate`: train on real documents and the new documents of all generations "
        "so far, with more steps in each generation; `accumulate-subsample`: train on a random sample of the accumulated documents, "
        "as many as `documents`.",
    )
    init_from: Literal["previous", "base"] = key(
        "previous", "Continue from the previous generation's weights or restart from generation 0's."
    )
    block_size: int = key(0, "Tokens of the blocks into which real text is cut; 0 keeps whole documents.", ge=0)
    filter: Literal["none", "unique", "parsed", "truthful"] = key(
        "none",
        "Generated texts to train on. `none`: all; `unique`: without duplicates; `parsed`: texts whose every sentence matches a "
        "template; `truthful`: texts without a false statement. The last two need a corpus of kind `people`.",
    )
    recover_after: Count | None = key(
        None, "Generation after which all new documents are real; null keeps `synthetic_fraction` throughout."
    )
    documents: Count = key(480, "New documents in each generation.")
    samples: Count = key(
        480, "Texts that each generation generates, to be evaluated and to train the next generation on."
    )
    sampler: Sampler = key(Sampler(), "Decoding settings of the generated texts.")
    training: GenerationTraining = key(
        GenerationTraining(), "Training settings of each generation, with the corpus of real documents."
    )
    control: Name | None = key(None, "The arm to compare with, trained on real text only.")
    held_out_documents: Count = key(200, "Maximum number of held-out real documents for perplexity.")
    probed_facts: Count | None = key(None, "Number of facts to probe, panel facts first; null probes all.")
    tasks: list[Name] = key([], "Multiple-choice tasks that every generation is evaluated on.")


class MultipleChoiceTask(Section):
    """A multiple-choice task, evaluated with lm-evaluation-harness."""

    renamed: ClassVar[dict[str, str]] = {"shots": "num_fewshot", "questions": "limit"}

    kind: Literal["world", "mmlu"] = key(
        ...,
        "`world`: questions about the model's world, with one subject for each relation; `mmlu`: MMLU or a task in its format.",
    )
    path: str | None = key(None, "Folder of the unpacked MMLU archive, with `dev` and `test`.")
    dataset: str | None = key(None, "Hub dataset with the columns of `cais/mmlu`.")
    subset: str = key("all", "Configuration of the hub dataset.")
    revision: str | None = key(None, "Commit of the hub dataset.")
    scoring: list[Literal["letter", "text"]] = key(
        ["letter", "text"],
        "`letter`: show the answers and score their letters; `text`: score the answers themselves.",
        min_length=1,
    )
    num_fewshot: list[Annotated[int, Field(ge=0)]] = key(
        [0, 5], "Numbers of few-shot examples before each question.", min_length=1
    )
    limit: Count | None = key(None, "Questions per subject, drawn at random; null uses all.")
    batch_size: Count = key(32, "Sequences in a batch.")


class HubDetector(Section):
    """A text classifier on the hub with the labels noise, word salad, mild gibberish and clean."""

    renamed: ClassVar[dict[str, str]] = {"repository": "repo_id"}

    repo_id: str = key("madhurjindal/autonlp-Gibberish-Detector-492513457", "Hub repository of the classifier.")
    revision: str = key(..., "Commit of the repository.")


class HubUpload(Section):
    """Upload of models and tables to a repository of the Hugging Face hub, with the token in `HF_TOKEN`."""

    renamed: ClassVar[dict[str, str]] = {"repository": "repo_id"}

    repo_id: str = key(..., "Repository for the models and tables; created if it does not exist.")
    private: bool = key(True, "Whether to create the repository as private.")
    models: Literal["none", "last", "all"] = key(
        "last", "Upload the models of no generation, the last generation or all generations of each chain."
    )
    endpoint: str = key("https://huggingface.co", "Address of the hub.")


class ModelCollapse(Section):
    """Arms that start from a model."""

    arms: list[Name] = key([], "Arms, of `collapse.arms`. Each seed of the model starts a chain of its own.")
    perplexity_model: Name | None = key(
        None,
        "Model, in its first seed, that measures the perplexity of generated texts; null uses generation 0.",
    )


class Collapse(Section):
    """Generations of models, each trained on text of the previous one."""

    renamed: ClassVar[dict[str, str]] = {"tests": "tasks", "detector": "gibberish_detector"}
    moved: ClassVar[dict[str, str]] = {"run": "models.*.collapse.arms", "resamples": "run.resamples"}

    arms: dict[Name, CollapseArm] = key({}, "Arms by name.")
    tasks: dict[Name, MultipleChoiceTask] = key({}, "Multiple-choice tasks by name.")
    gibberish_detector: HubDetector | None = key(
        None, "Gibberish classifier from the hub; null trains one on corrupted real text."
    )
    upload: HubUpload | None = key(None, "Hub repository for models and tables; null uploads nothing.")


def model_arms(config: Config, model: Name) -> dict[Name, CollapseArm]:
    """The arms of a model, with the corpora of their real documents filled in."""
    settings, training = config.models[model].collapse, config.models[model].training
    arms = {}
    for name in settings.arms if settings else []:
        if name in config.collapse.arms:
            arm = config.collapse.arms[name]
            corpus = arm.training.corpus or (training.corpus if training else None)
            arms[name] = arm.model_copy(update={"training": arm.training.model_copy(update={"corpus": corpus})})
    return arms


def generation_zero_arm(arms: Mapping[Name, CollapseArm], name: Name) -> Name:
    """The arm that holds generation 0 of an arm: the first one of its model with the same settings of generation 0."""
    settings = generation_settings(arms[name], 0)
    return next(arm for arm in arms if generation_settings(arms[arm], 0) == settings)


def generation_settings(arm: CollapseArm, generation: int) -> dict[str, Any]:
    """The settings that a generation depends on, without those that only affect later generations."""
    if generation:
        return arm.model_dump(mode="json", exclude={"generations", "control"})
    keys = {"samples", "sampler", "block_size", "held_out_documents", "probed_facts", "tasks"}
    return arm.model_dump(mode="json", include=keys) | {"training": {"corpus": arm.training.corpus}}


def problems(config: Config) -> Iterable[str]:
    """Problems of the arms that involve other sections."""
    if config.collapse.upload and config.collapse.upload.repo_id.count("/") != 1:
        yield f"collapse.upload.repo_id is `{config.collapse.upload.repo_id}`; must be an owner, a slash and a name"
    for model, settings in config.running("collapse"):
        where = f"models.{model}.collapse.arms"
        for name in settings.arms:
            yield from missing(where, name, config.collapse.arms, "collapse.arms")
        if settings.perplexity_model is not None:
            name = f"models.{model}.collapse.perplexity_model"
            yield from missing(name, settings.perplexity_model, config.models, "models")
        arms = model_arms(config, model)
        for name in arms:
            yield from _arm_problems(config, model, name, arms)


def _arm_problems(config: Config, model: Name, name: Name, arms: Mapping[Name, CollapseArm]) -> Iterable[str]:
    arm, where = arms[name], f"collapse.arms.{name}"
    corpus = config.corpora.get(arm.training.corpus or "")
    if arm.training.corpus is None:
        yield f"{where}.training.corpus is missing: this config does not train `{model}`, so name a corpus of real documents"
    elif corpus is None:
        yield from missing(f"{where}.training.corpus", arm.training.corpus, config.corpora, "corpora")
    elif not getattr(corpus, "held_out_fraction", corpus.kind == "people"):
        yield (
            f"{where}.training.corpus: {arm.training.corpus} holds out no documents for evaluation; use a corpus of kind "
            "people, or prose or text with a `held_out_fraction`"
        )
    elif arm.filter in ("parsed", "truthful") and corpus.kind != "people":
        yield f"{where}.filter is `{arm.filter}`, which needs a corpus of kind people; use `unique` or `none`"
    if (n_synthetic := round(arm.documents * arm.synthetic_fraction)) > arm.samples:
        yield (
            f"{where}.samples is {arm.samples}, fewer than the {n_synthetic} synthetic documents of a generation; raise it"
        )
    if arm.recover_after is not None and arm.recover_after >= arm.generations:
        yield f"{where}.recover_after is {arm.recover_after}: no generation is left to recover; raise `generations`"
    for task in arm.tasks:
        yield from missing(f"{where}.tasks", task, config.collapse.tasks, "collapse.tasks")
        if task in config.collapse.tasks:
            yield from _task_problems(task, config.collapse.tasks[task])
    if arm.control is not None:
        yield from _control_problems(model, where, arm, arms)


def _task_problems(name: Name, task: MultipleChoiceTask) -> Iterable[str]:
    if task.kind == "mmlu" and (task.path is None) == (task.dataset is None):
        yield f"collapse.tasks.{name} needs either a `path` or a `dataset`"
    if task.dataset and not task.revision:
        yield f"collapse.tasks.{name}.revision is missing: a run needs the commit of {task.dataset} to be reproducible"


def _control_problems(model: Name, where: str, arm: CollapseArm, arms: Mapping[Name, CollapseArm]) -> Iterable[str]:
    control = arms.get(arm.control) if arm.control else None
    if control is None:
        yield f"{where}.control is `{arm.control}`, which is not in models.{model}.collapse.arms; add it there"
        return
    if control.synthetic_fraction:
        yield f"{where}.control is `{arm.control}`; must be an arm whose synthetic_fraction is 0"
        return
    data_keys = {"synthetic_fraction", "mode", "filter", "recover_after", "control"}
    settings, control_settings = arm.model_dump(exclude=data_keys), control.model_dump(exclude=data_keys)
    if different := [name for name, value in settings.items() if control_settings[name] != value]:
        yield f"{where}: its control {arm.control} differs in {', '.join(different)}; only their data may differ"
