"""Collapse: models that are trained, generation after generation, on text that they wrote themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from factlife.config.base import Count, Name, Section, Share, key, missing
from factlife.config.models import Training

if TYPE_CHECKING:
    from factlife.config import Config


class Sampler(Section):
    """How a model writes; every choice is made here and none is left to a model's own settings."""

    method: Literal["sample", "greedy", "beam"] = key(
        "sample", "Draw tokens, take the likeliest, or search with beams."
    )
    temperature: float = key(1.0, "Divides the logits before drawing.", gt=0)
    top_p: float = key(1.0, "Draw from the fewest tokens that together have this probability.", gt=0, le=1)
    beams: Annotated[int, Field(ge=2)] = key(5, "Beams of `beam`.")
    prompt_tokens: int = key(0, "Tokens of a real document that the model goes on from; 0 to write from nothing.", ge=0)
    keep_prompt: bool = key(True, "Whether a text is the prompt and what was written after it, or only the latter.")
    chat: str | None = key(
        None,
        "Instruction that stands before each prompt, in the chat template of the tokenizer; empty to use no template.",
    )
    new_tokens: Count = key(96, "Most tokens written.")
    batch_tokens: Count = key(32768, "Tokens in a batch, those still to be written included; no draw depends on it.")


class Relearning(Training):
    """How each generation is trained; as a model's training, but for what is below."""

    epochs: float = key(  # type: ignore[assignment]
        1.0,
        "Times through as many documents as `documents`, however large the corpus, so that arms take the same steps; with mode "
        "`accumulate`, times through all that has accumulated.",
        gt=0,
    )
    group_by_length: bool = key(
        False,
        "Put texts of like length into a batch. Tokens of short ones then weigh more, so that each generation would write shorter "
        "texts than it learnt, whatever it learnt.",
    )
    learning_rate: float = key(0.001, "Of AdamW.", gt=0)
    muon_learning_rate: float = key(0.005, "Of Muon.", gt=0)
    checkpoints: Literal[1] = key(1, "A generation keeps its last model only.")


class Arm(Section):
    """A chain of generations: each learns from what the one before it wrote, from real text, or from both."""

    model: Name = key("people-pieces", "The model that is generation 0; each of its seeds is a chain of its own.")
    generations: Count = key(4, "Generations after generation 0.")
    synthetic_share: Share = key(
        1.0, "Share of each generation's new documents that the one before wrote; 0 is a control."
    )
    mode: Literal["replace", "accumulate", "accumulate-fixed"] = key(
        "replace",
        "`replace`: learn from the new documents only; `accumulate`: from real ones and all that were ever new, in more steps "
        "each generation; `accumulate-fixed`: from as many of those as `documents`, chosen at random, in as many steps as the others.",
    )
    start: Literal["last", "base"] = key("last", "Train the last generation further, or generation 0 anew.")
    block_tokens: int = key(0, "Tokens of the blocks into which real text is cut; 0 for whole documents.", ge=0)
    filter: Literal["none", "distinct", "whole", "true"] = key(
        "none",
        "Texts that are learnt of those written: all; no text twice; those whose every sentence a template makes; or those "
        "that state nothing false. The last two need a corpus of kind `people`.",
    )
    recover_after: Count | None = key(None, "Generation after which all new documents are real; empty for never.")
    documents: Count = key(480, "New documents in a generation.")
    samples: Count = key(
        480, "Texts that each generation writes: they are measured, and the next one learns from them."
    )
    sampler: Sampler = key(Sampler(), "How they are written.")
    training: Relearning = key(..., "How each generation is trained, and from which real documents.")
    judge: Name | None = key(
        None,
        "The model, by the first of its seeds, to which perplexity of the texts written is taken; empty for generation 0.",
    )
    control: Name | None = key(None, "The arm without synthetic text that this one is compared with.")
    held_out: Count = key(200, "Held-out real documents, at most, whose perplexity is taken.")
    asked: Count | None = key(None, "Facts that are asked, those of the panel first; empty for all.")
    tests: list[Name] = key([], "Multiple-choice tests that every generation takes.")


class MultipleChoice(Section):
    """A multiple-choice test, taken through lm-evaluation-harness."""

    kind: Literal["world", "mmlu"] = key(
        ...,
        "`world`: questions about the model's world, a subject for each relation; `mmlu`: MMLU, or a test in its layout.",
    )
    path: str | None = key(None, "Folder of the unpacked archive of MMLU, with `dev` and `test`.")
    dataset: str | None = key(None, "Hub dataset with the columns of `cais/mmlu`.")
    subset: str = key("all", "Configuration of the hub dataset.")
    revision: str | None = key(None, "Commit of the hub dataset.")
    scoring: list[Literal["letter", "text"]] = key(
        ["letter", "text"], "Score the letters of the answers shown, or the answers' own text.", min_length=1
    )
    shots: list[Annotated[int, Field(ge=0)]] = key([0, 5], "Examples before each question.", min_length=1)
    questions: Count | None = key(None, "Questions of each subject, chosen at random; empty for all.")
    batch_size: Count = key(32, "Sequences in a batch.")


class Detector(Section):
    """A classifier of the hub that tells noise, word salad, mild gibberish and clean text apart."""

    renamed: ClassVar[dict[str, str]] = {"repository": "repo_id"}
    repo_id: str = key("madhurjindal/autonlp-Gibberish-Detector-492513457", "Repository of the hub.")
    revision: str = key(..., "Commit of the repository.")


class Upload(Section):
    """What goes to a repository of the Hugging Face hub in the end, with the token in `HF_TOKEN`."""

    renamed: ClassVar[dict[str, str]] = {"repository": "repo_id"}
    repo_id: str = key(..., "Repository for the models and tables; made if it is not there.")
    private: bool = key(True, "Whether a repository that is made is private.")
    models: Literal["none", "last", "all"] = key("last", "Models of no, the last, or all generations of each chain.")
    endpoint: str = key("https://huggingface.co", "Address of the hub.")


class Collapse(Section):
    """Generations of models, each trained on text of the one before."""

    arms: dict[Name, Arm] = key({}, "Arms by name.")
    run: list[Name] = key([], "Arms that are run; those whose model is not in `run.models` are left out.")
    tests: dict[Name, MultipleChoice] = key({}, "Multiple-choice tests by name.")
    detector: Detector | None = key(
        None, "Classifier of gibberish; empty to train one on corruptions of the real corpus."
    )
    upload: Upload | None = key(None, "Where models and tables go in the end; empty for nowhere.")
    resamples: Count = key(1000, "Bootstrap resamples behind every interval.")


def beginning(collapse: Collapse, name: Name) -> Name:
    """The arm with which an arm shares generation 0: the first that is run and begins alike."""
    alike = [
        other
        for other in [*collapse.run, name]
        if of_generation(collapse.arms[other], 0) == of_generation(collapse.arms[name], 0)
    ]
    return alike[0]


def of_generation(arm: Arm, generation: int) -> dict[str, Any]:
    """The settings that a generation depends on: what comes later is none of them."""
    if generation:
        return arm.model_dump(mode="json", exclude={"generations", "control"})
    kept = arm.model_dump(
        mode="json", include={"model", "samples", "sampler", "block_tokens", "judge", "held_out", "asked", "tests"}
    )
    return kept | {"training": {"corpus": arm.training.corpus}}


def problems(config: Config) -> Iterable[str]:
    """What is wrong with the arms across sections."""
    for name in config.collapse.run:
        if name not in config.collapse.arms:
            yield f"collapse.run is `{name}`, which is not in collapse.arms; there are {', '.join(config.collapse.arms)}"
    if config.collapse.upload and config.collapse.upload.repo_id.count("/") != 1:
        yield f"collapse.upload.repo_id is `{config.collapse.upload.repo_id}`; must be an owner, a slash and a name"
    for name, test in config.collapse.tests.items():
        if test.kind == "mmlu" and (test.path is None) == (test.dataset is None):
            yield f"collapse.tests.{name} needs either a `path` or a `dataset`"
        if test.dataset and not test.revision:
            yield f"collapse.tests.{name}.revision is missing: without the commit of {test.dataset} a run could not be repeated"
    for name, arm in config.collapse.arms.items():
        at = f"collapse.arms.{name}"
        if arm.model not in config.models:
            yield f"{at}.model is `{arm.model}`, which is not in models; there are {', '.join(config.models)}"
        if arm.training.corpus not in config.corpora:
            yield f"{at}.training.corpus is `{arm.training.corpus}`, which is not in corpora"
        elif not getattr(corpus := config.corpora[arm.training.corpus], "held_out_fraction", corpus.kind == "people"):
            yield f"{at}.training.corpus: {arm.training.corpus} keeps no documents for evaluation; use one of kind people, or prose or text with a `held_out_fraction`"
        elif arm.filter in ("whole", "true") and corpus.kind != "people":
            yield f"{at}.filter is `{arm.filter}`, but only text of a corpus of kind people can be checked; use `distinct` or `none`"
        if (wanted := round(arm.documents * arm.synthetic_share)) > arm.samples:
            yield f"{at}.samples is {arm.samples}, fewer than the {wanted} synthetic documents of a generation; raise it"
        if arm.recover_after is not None and arm.recover_after >= arm.generations:
            yield f"{at}.recover_after is {arm.recover_after}: no generation is left to recover; raise `generations`"
        if arm.judge is not None:
            yield from missing(f"{at}.judge", arm.judge, config.models, "models")
        for test in arm.tests:
            yield from missing(f"{at}.tests", test, config.collapse.tests, "collapse.tests")
        if arm.control is not None:
            yield from _control(at, arm, config.collapse.arms)


def _control(at: str, arm: Arm, arms: dict[Name, Arm]) -> Iterable[str]:
    control = arms.get(arm.control)
    if control is None or control.synthetic_share:
        yield f"{at}.control is `{arm.control}`; must be an arm whose synthetic_share is 0"
        return
    free = {"synthetic_share", "mode", "filter", "recover_after", "control"}
    mine, others = arm.model_dump(exclude=free), control.model_dump(exclude=free)
    if wrong := [name for name, value in mine.items() if others[name] != value]:
        yield f"{at}: its control {arm.control} has another {', '.join(wrong)}; they may differ in their data only"
