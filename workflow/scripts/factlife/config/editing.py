"""Editing: which facts of which models are edited, with which editors, and how the edits are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeGuard

from pydantic import Field, model_validator

from factlife.config.base import Count, Name, Section, Share, key, missing
from factlife.config.editing_presets import with_preset
from factlife.config.imports import importable

if TYPE_CHECKING:
    from factlife.config import Config


FactToken = Literal["subject_last", "last"]


class EditSite(Section):
    """The token and the layers at which a model is edited."""

    fact_token: FactToken = key(
        "subject_last", "Token whose hidden state is edited: the subject's last token or the prompt's last token."
    )
    layers: list[int] = key(
        [1],
        "Blocks whose MLP down-projection is edited, in this order; negative numbers count from the end.",
        min_length=1,
    )
    choose_by: Literal[
        "config", "sweep", "tracing", "tracing-noise", "tracing-window", "tracing-mlp-frozen", "depth"
    ] = key(
        "config",
        "How the site is chosen. `config` uses `fact_token` and `layers` as given; any other value takes the site that "
        "this criterion chose in `edit_sites.csv` as the last edited layer, and `layers` gives only their number.",
    )
    spread: Literal["residual", "boundary"] = key(
        "residual",
        "`residual` spreads the residual over all layers (MEMIT); `boundary` edits only the first and the last layer, "
        "each with its own target vectors (BLUE).",
    )


class TargetVectorSettings(Section):
    """How target vectors are computed: vectors that make the model predict the new value when added at the edited site."""

    renamed: ClassVar[dict[str, str]] = {
        "steps": "v_num_grad_steps",
        "rate": "v_lr",
        "clamp": "clamp_norm_factor",
        "decay": "v_weight_decay",
        "kl": "kl_factor",
        "kl_over": "kl_prompts",
        "stop": "v_loss_threshold",
        "argmax": "argmax_patience",
        "anchor": "norm_anchor",
        "contexts": "n_context_templates",
        "joint": "one_vector_per_subject",
        "batch": "batch_size",
        "scale": "norm_site",
    }

    units: Literal["published", "relative"] = key(
        "relative",
        "Units of `v_lr` and `v_weight_decay`. `published`: as in ROME's and MEMIT's code, a plain Adam step and a penalty "
        "of ‖δ‖ / ‖h‖²; `relative`: scaled by ‖h‖, so that values carry over between models. No default where either is set.",
    )
    norm_site: Literal["residual", "mlp"] = key(
        "residual",
        "Hidden state whose norm is ‖h‖: the residual stream (MEMIT) or the MLP output (ROME) at the edited site.",
    )
    v_num_grad_steps: Count = key(25, "Optimisation steps; the last one only evaluates the loss.")
    v_lr: float = key(0.2, "Learning rate of Adam; if relative, in units of ‖h‖ / √d_model.", gt=0)
    clamp_norm_factor: float = key(1.0, "Maximum norm of the vector, in units of ‖h‖.", gt=0)
    v_weight_decay: float = key(0.05, "Weight of the norm penalty; if relative, of (‖δ‖ / ‖h‖)².", ge=0)
    kl_factor: float = key(
        0.0625, "Weight of the KL divergence that preserves predictions on other prompts about the subject.", ge=0
    )
    kl_prompts: Literal["related", "essence"] = key(
        "related",
        "Prompts of the KL term. `related`: the subject's other facts, where they are known; `essence`: ROME's `{subject} is a`.",
    )
    v_loss_threshold: float = key(0.05, "Optimisation of a request stops below this loss, in nats.", ge=0)
    argmax_patience: Count | None = key(
        None,
        "Optimisation also stops after the new value was the argmax in all contexts at this many steps (MPES of ENCORE); "
        "null turns this off.",
    )
    norm_anchor: bool = key(
        False,
        "Rescale the MLP's target output, vector included, to its mean norm over the first batch in the original model, and "
        "drop vectors that lead to more than twice this norm (NAS).",
    )
    n_context_templates: int = key(5, "Corpus sentences used as prefixes of the prompt, besides the bare prompt.", ge=0)
    one_vector_per_subject: bool = key(
        True, "Optimise one vector for all requests about a subject, which share the key of its last token."
    )
    batch_size: Count = key(64, "Vectors optimised together; results do not depend on it.")

    @model_validator(mode="before")
    @classmethod
    def _require_units(cls, settings: Any) -> Any:
        ambiguous = [name for name in ("v_lr", "v_weight_decay") if isinstance(settings, Mapping) and name in settings]
        if ambiguous and "units" not in settings:
            raise ValueError(
                f"`{ambiguous[0]}` needs `units`: `published` for a value from a ROME or MEMIT file, `relative` for one in units of ‖h‖"
            )
        return settings


class EditSchedule(Section):
    """How many requests are edited at once, and whether edits accumulate."""

    renamed: ClassVar[dict[str, str]] = {"edits": "n_edits", "batch": "edits_per_batch", "points": "n_evaluations"}

    kind: Literal["single", "batch", "sequential"] = key(
        "batch",
        "`single`: one request at a time, rolled back after its evaluation; `batch`: all requests at once; `sequential`: "
        "batch after batch, each on top of the previous ones.",
    )
    n_edits: Count = key(100, "Number of requests, from the first one on.")
    edits_per_batch: Count = key(10, "Requests per batch of a `sequential` schedule.")
    n_evaluations: Count = key(5, "Evaluations of all edits so far during a `sequential` schedule.")


class _Editor(Section):
    """Keys of all editors."""

    kind: str
    preset: str | None = key(
        None,
        "Published hyper-parameters for a model, such as `gpt-j`; keys given next to it override the preset.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_preset_and_schedule(cls, settings: Any) -> Any:
        """Fill in a preset; a schedule without `kind` changes the editor's default schedule instead of replacing it."""
        if not isinstance(settings, Mapping):
            return settings
        if settings.get("preset"):
            settings = with_preset(settings["kind"], settings)
        schedule, default = settings.get("schedule"), cls.model_fields["schedule"].default
        if isinstance(schedule, Mapping) and "kind" not in schedule and isinstance(default, EditSchedule):
            settings = {**settings, "schedule": {**default.model_dump(exclude_unset=True), **schedule}}
        return settings


_RENAMED_PLACE = {"place": "fact_token`, `layers`, `choose_by` and `spread", "moments": "covariance"}


class _ClosedFormEditor(EditSite, _Editor):
    """Keys of editors that solve for the weight change in closed form."""

    renamed: ClassVar[dict[str, str]] = _RENAMED_PLACE

    schedule: EditSchedule = key(EditSchedule(), "How requests are batched.")
    values: TargetVectorSettings = key(TargetVectorSettings(), "How target vectors are computed.")
    covariance: Name | None = key(None, "Key covariance C, of `covariances`; null uses the one of the edited model.")

    @property
    def site(self) -> EditSite:
        """The token and layers that this editor edits."""
        return EditSite(**{name: getattr(self, name) for name in EditSite.model_fields})


class Rome(_ClosedFormEditor):
    """ROME (Meng et al. 2022) with the averaged key throughout (r-ROME, Gupta et al. 2024): one request, solved exactly."""

    renamed: ClassVar[dict[str, str]] = _RENAMED_PLACE | {"spare": "mom2_adjustment"}

    kind: Literal["rome"] = key(..., "The editor.")
    schedule: EditSchedule = key(EditSchedule(kind="single", n_edits=50), "How requests are batched.")
    legacy: bool = key(
        False, "As first published: the denominator uses the bare prompt's key, so that some edits disable the model."
    )
    mom2_adjustment: bool = key(
        True, "Use the key covariance C; if false, C is the identity, as in EasyEdit's settings."
    )


class Emmet(_ClosedFormEditor):
    """EMMET (Gupta et al. 2024): a batch of requests under equality constraints, relaxed by a small ridge."""

    renamed: ClassVar[dict[str, str]] = _RENAMED_PLACE | {"weight": "emmet_lambda"}

    kind: Literal["emmet"] = key(..., "The editor.")
    emmet_lambda: float = key(0.1, "Ridge λ.", ge=0)


class Memit(_ClosedFormEditor):
    """MEMIT (Meng et al. 2023): a batch of requests, balanced against the keys of a corpus."""

    renamed: ClassVar[dict[str, str]] = _RENAMED_PLACE | {
        "share": "residual_fraction",
        "weight": "mom2_update_weight",
        "remember": "preserve_previous_edits",
        "ridge": "update_norm_lambda",
    }

    kind: Literal["memit"] = key(..., "The editor.")
    residual_fraction: Annotated[float, Field(gt=0, lt=1)] = key(
        0.95, "Fraction of its residual that the average request receives; sets λ if `mom2_update_weight` is null."
    )
    mom2_update_weight: float | None = key(
        None, "λ as published: the number of corpus keys that one edited key is worth.", gt=0
    )
    preserve_previous_edits: bool = key(
        False, "Also preserve the keys of previous batches (sequential MEMIT, as in AlphaEdit's code)."
    )
    update_norm_lambda: float = key(
        0.0, "Weight of the squared norm of the weight change, as published (ENCORE).", ge=0
    )


class AlphaEdit(_ClosedFormEditor):
    """AlphaEdit (Fang et al. 2025): a batch of requests, solved in the null space of the corpus keys."""

    renamed: ClassVar[dict[str, str]] = _RENAMED_PLACE | {
        "share": "residual_fraction",
        "weight": "L2",
        "energy": "nullspace_energy",
        "threshold": "nullspace_threshold",
    }

    kind: Literal["alphaedit"] = key(..., "The editor.")
    residual_fraction: Annotated[float, Field(gt=0, lt=1)] = key(
        0.9, "Fraction of its residual that the average request receives; sets the ridge if `L2` is null."
    )
    L2: float | None = key(None, "Ridge, as published.", gt=0)
    nullspace_energy: Share = key(
        0.02,
        "Fraction of the energy of the corpus keys that the null space may hold; used if `nullspace_threshold` is null.",
    )
    nullspace_threshold: float | None = key(
        None, "Upper bound of the eigenvalues of the null space, as published.", gt=0
    )


class LocFt(_Editor):
    """LocFT-BF (2025): fine-tuning of one down-projection, breadth first."""

    renamed: ClassVar[dict[str, str]] = {"batch": "batch_size", "rate": "learning_rate", "end": "append_eos"}

    kind: Literal["locft"] = key(..., "The editor.")
    schedule: EditSchedule = key(EditSchedule(), "How requests are batched.")
    layer: int = key(-1, "Block whose down-projection is trained; negative numbers count from the end.")
    epochs: Count = key(25, "Passes over the requests.")
    batch_size: Count = key(10, "Requests per step.")
    learning_rate: float = key(5e-4, "Learning rate of Adam.", gt=0)
    append_eos: bool = key(False, "Append the end-of-text token to new values.")


class Ft(_Editor):
    """FT-L (Zhu et al. 2020, Meng et al. 2022): fine-tuning of one down-projection with an L∞ norm constraint.

    Each token of a new value is predicted from the tokens before it; the published code predicts all of them from the prompt.
    """

    renamed: ClassVar[dict[str, str]] = {
        "steps": "num_steps",
        "batch": "batch_size",
        "rate": "learning_rate",
        "limit": "norm_constraint",
        "stop": "loss_threshold",
        "end": "append_eos",
    }

    kind: Literal["ft"] = key(..., "The editor.")
    schedule: EditSchedule = key(EditSchedule(kind="single", n_edits=50), "How requests are batched.")
    layer: int = key(-1, "Block whose down-projection is trained; negative numbers count from the end.")
    num_steps: Count = key(25, "Maximum number of passes over the requests.")
    batch_size: Count = key(100, "Requests per step.")
    learning_rate: float = key(5e-4, "Learning rate of Adam.", gt=0)
    units: Literal["published", "relative"] = key(
        "relative",
        "Units of `norm_constraint`. `published`: the weight's own; `relative`: standard deviations of its entries.",
    )
    norm_constraint: float = key(0.2, "Maximum change of any entry of the weight.", gt=0)
    loss_threshold: float = key(1e-2, "Training stops below this mean loss, in nats.", ge=0)
    append_eos: bool = key(False, "Append the end-of-text token to new values.")


class Lora(_Editor):
    """LoRA (Hu et al. 2022) on all linear maps of some blocks, merged into the weights."""

    renamed: ClassVar[dict[str, str]] = {
        "rank": "r",
        "alpha": "lora_alpha",
        "batch": "batch_size",
        "rate": "learning_rate",
        "end": "append_eos",
    }

    kind: Literal["lora"] = key(..., "The editor.")
    schedule: EditSchedule = key(EditSchedule(), "How requests are batched.")
    layers: list[int] | None = key(None, "Blocks; negative numbers count from the end; null for all.")
    r: Count = key(8, "Rank of each weight change.")
    lora_alpha: float = key(16.0, "Weight changes are scaled by `lora_alpha` / `r`.", gt=0)
    epochs: Count = key(30, "Passes over the requests.")
    batch_size: Count = key(10, "Requests per step.")
    learning_rate: float = key(5e-3, "Learning rate of Adam.", gt=0)
    append_eos: bool = key(False, "Append the end-of-text token to new values.")
    seed: int = key(0, "Seed of the initial adapter weights.", ge=0)


class UltraEdit(_Editor):
    """UltraEdit (Gu et al. 2025, 2505.14679): one forward and one backward pass, without target vectors or subjects."""

    renamed: ClassVar[dict[str, str]] = {"rate": "learning_rate"}

    kind: Literal["ultraedit"] = key(..., "The editor.")
    schedule: EditSchedule = key(EditSchedule(), "How requests are batched.")
    layers: list[int] = key([-2, -1], "Blocks whose down-projections are edited, if `modules` is empty.")
    modules: list[str] = key([], "Linear maps to edit, by their names in the model.")
    units: Literal["published", "relative"] = key(
        "relative",
        "Units of `learning_rate` and `ridge`. `published`: as in the original code; `relative`: the root mean square of the "
        "map's output at the answers, and the mean square of its keys.",
    )
    learning_rate: float = key(1.0, "Step size along the normalised gradient.", gt=0)
    ridge: float = key(1.0, "Ridge.", gt=0)


class Mend(_Editor):
    """MEND (Mitchell et al. 2022): a trained hypernetwork maps the gradient of a request to a weight change."""

    kind: Literal["mend"] = key(..., "The editor.")
    schedule: EditSchedule = key(EditSchedule(), "How requests are batched.")
    hypernetwork: Name = key(..., "The hypernetwork, of `hypernetworks`.")


class CustomEditor(_Editor):
    """Base class of an editor of your own: settings, and a method that turns requests into weight changes."""

    kind: str = key(..., "Import path of the class, `package.module:Class`.")
    schedule: EditSchedule = key(EditSchedule(), "How requests are batched.")

    def edit(self, target: Any, requests: Any, memory: dict) -> dict[str, Any]:
        """The change of each weight that writes a batch of requests.

        Args:
            target: a ``factlife.editing.editable.EditableModel``, which holds the model and its tokenizer.
            requests: the batch, with columns such as ``prompt``, ``subject`` and ``target_new``.
            memory: kept from batch to batch, for editors that need earlier ones.

        Returns:
            Changes by the parameter's name.
        """
        raise NotImplementedError


Editor = Annotated[
    Rome | Emmet | Memit | AlphaEdit | LocFt | Ft | Lora | UltraEdit | Mend,
    Field(discriminator="kind"),
    importable(CustomEditor),
]
ClosedFormEditor = Rome | Emmet | Memit | AlphaEdit


class KeyCovariance(Section):
    """Key covariance C: the uncentred second moment of the inputs of the down-projections."""

    renamed: ClassVar[dict[str, str]] = {"multiple": "tokens_per_key_dim", "edited": "include_edited_subjects"}

    corpus: Name = key(..., "Corpus from which the keys come.")
    tokens_per_key_dim: Count = key(
        100, "Number of tokens, as a multiple of the key dimension; 100 for specificity, at least 10 for efficacy."
    )
    include_edited_subjects: bool = key(True, "Also read documents that mention subjects of the requests.")
    layers: list[int] = key(
        [], "Blocks to measure; negative numbers count from the end, and later blocks do not run. Empty for all."
    )


class HypernetworkTraining(Section):
    """Training of MEND's hypernetwork, on requests about subjects that no evaluated request is about."""

    renamed: ClassVar[dict[str, str]] = {
        "rate": "edit_lr",
        "lessons": "train_edits",
        "batch": "edits_per_batch",
        "edit_weight": "cedit",
        "clip": "max_grad_norm",
    }

    layers: list[int] = key(
        [-3, -2, -1], "Blocks whose MLPs are edited (all their linear maps), if `modules` is empty."
    )
    modules: list[str] = key([], "Linear maps to edit, by their names in the model.")
    rank: Count = key(
        256, "Rank of the hypernetwork's two layers, each a product of two thin matrices; published: 1920."
    )
    edit_lr: float = key(1e-3, "Initial scale of each map's weight change; learned.", gt=0)
    train_edits: Count = key(1000, "Maximum number of training requests.")
    steps: Count = key(1000, "Training steps.")
    edits_per_batch: Count = key(10, "Requests edited at once in each step; match the editor's schedule.")
    learning_rate: float = key(1e-3, "Learning rate of Adam; that of `edit_lr` is ten times higher.", gt=0)
    cedit: float = key(0.1, "Weight of the edit loss relative to the locality loss.", gt=0)
    max_grad_norm: float = key(100.0, "Maximum gradient norm.", gt=0)
    seed: int = key(0, "Seed of the hypernetwork's weights and of the order of the training requests.", ge=0)


class EditRequests(Section):
    """Which facts are edited."""

    renamed: ClassVar[dict[str, str]] = {
        "snippets": "attribute_snippets",
        "answer": "zsre_target",
        "known": "known_only",
    }

    kind: Literal["world", "counterfact", "multi-counterfact", "easyedit", "zsre", "wikibigedit"] = key(
        "world",
        "`world`: facts of the model's world that were taught, panel facts first; otherwise the layout of `path` or "
        "`dataset`, where `easyedit` is EasyEdit's form of CounterFact.",
    )
    path: str | None = key(None, "Local file: a JSON list, JSON lines or Parquet.")
    dataset: str | None = key(None, "Dataset on the Hugging Face hub.")
    revision: str | None = key(None, "Commit of the hub dataset.")
    split: str = key("train", "Split of the hub dataset.")
    attribute_snippets: str | None = key(
        None, "CounterFact's `attribute_snippets.json`, used to measure the consistency of generated text."
    )
    zsre_target: Literal["answers", "alt"] = key(
        "answers",
        "Field of a zsRE record with the new value: `answers`, the true answer (MEMIT, AlphaEdit), or `alt` (MEND, EasyEdit).",
    )
    count: Count = key(100, "Number of requests; from a file, the first ones.")
    known_only: bool = key(
        False,
        "For worlds: edit only facts that the model recalls (argmax, on a training prompt), and evaluate neighbours and "
        "other facts only where the model recalls them.",
    )
    seed: int = key(0, "For worlds: seed of the order of requests and of the new values.", ge=0)


class EditSurvival(Section):
    """Fine-tuning of edited models, and of the unedited model in the same way."""

    renamed: ClassVar[dict[str, str]] = {
        "finetunings": "finetuning",
        "relearning": "relearning_steps",
        "rate": "learning_rate",
        "full_rate": "full_learning_rate",
        "rank": "r",
    }

    editors: list[Name] = key([], "Editors whose edited models are fine-tuned; not those with a `single` schedule.")
    finetuning: list[Literal["full", "lora", "dora"]] = key(["lora"], "Fine-tuning methods.", min_length=1)
    data: list[Literal["related", "unrelated", "edited_subjects"]] = key(
        ["related", "unrelated", "edited_subjects"],
        "Documents of the corpus used for fine-tuning. `related`: facts of other people; `unrelated`: no people; "
        "`edited_subjects`: they mention edited subjects as the corpus does, so that most restate old values.",
        min_length=1,
    )
    trained_layers: list[Literal["all", "edited", "unedited"]] = key(
        ["all"], "Blocks that are trained: all, only the edited ones, or only the unedited ones.", min_length=1
    )
    steps: list[Count] = key([10, 30, 100], "Training steps after which models are evaluated.", min_length=1)
    relearning_steps: list[Count] = key(
        [1, 2, 4, 8],
        "Steps of retraining on erased edits after which they are evaluated; empty skips the relearning test.",
    )
    batch_size: Count = key(16, "Documents per step.")
    learning_rate: float = key(1e-3, "Learning rate of Adam for LoRA and DoRA.", gt=0)
    full_learning_rate: float = key(2e-4, "Learning rate of Adam for full fine-tuning.", gt=0)
    r: Count = key(8, "Rank of LoRA and DoRA; their α is twice the rank.")
    seed: int = key(0, "Seed of the adapters and of the order of documents.", ge=0)


class SiteSweep(Section):
    """Edits at every token and layer in turn, compared with cheaper criteria that predict the best site."""

    renamed: ClassVar[dict[str, str]] = {
        "edits": "n_edits",
        "distinct": "unique_subjects",
        "tokens": "fact_tokens",
        "depth": "depth_fraction",
    }

    editor: Name | None = key(
        None,
        "Editor whose settings are used at every site, with the same number of layers; null for no sweep.",
    )
    n_edits: Count = key(50, "Requests in the batch, from the first one on.")
    unique_subjects: bool = key(True, "Take only the first request of each subject.")
    fact_tokens: list[FactToken] = key(["subject_last", "last"], "Tokens to try.", min_length=1)
    layers: list[int] = key([], "Blocks to try; empty for all.")
    depth_fraction: Annotated[float, Field(ge=0, le=1)] = key(
        0.25, "Relative depth that the criterion `depth` chooses; published editors use 0.11 to 0.35."
    )


class EditEvaluation(Section):
    """Metrics besides the probes, computed before editing and whenever all edits are evaluated."""

    renamed: ClassVar[dict[str, str]] = {
        "texts": "generation_requests",
        "tokens": "max_new_tokens",
        "perplexity": "perplexity_corpus",
        "documents": "perplexity_documents",
    }

    generation_requests: int = key(
        0, "Requests for which the model generates text, to measure fluency and consistency.", ge=0
    )
    max_new_tokens: Count = key(100, "Tokens generated per text.")
    perplexity_corpus: Name | None = key(
        None,
        "Corpus for perplexity: its held-out documents (all, if it has none) that mention no edited subject.",
    )
    perplexity_documents: Count = key(200, "Number of documents for perplexity.")
    tasks: list[str] = key(
        [],
        "Multiple-choice tasks before and after editing: `world`, made from the model's world, and tasks of "
        "lm-evaluation-harness, such as `arc_easy`, whose data it downloads from the hub.",
    )


class SharedTargetVectors(Section):
    """Target vectors that are computed before editors run."""

    shared: bool = key(
        False,
        "Compute target vectors in separate jobs, shared by editors with the same site, settings and requests. Otherwise, "
        "and always in sequences and at a boundary, where they depend on earlier edits, each editor computes its own.",
    )
    shards: Count = key(1, "Number of jobs, each with whole batches of `values.batch_size` vectors.")


class ModelEditing(Section):
    """Edits of one model."""

    renamed: ClassVar[dict[str, str]] = {
        "moments": "covariance",
        "values": "target_vectors",
        "measures": "evaluation",
        "places": "site_sweep",
    }

    editors: list[Name] = key(
        ["memit"], "Editors, of `editors`, or kinds of editors with their defaults.", min_length=1
    )
    requests: EditRequests = key(EditRequests(), "The requests.")
    covariance: Name | None = key(
        None,
        "Key covariance, of `covariances`; its corpus also provides the context templates. Null measures it on the "
        "model's training corpus, or on `prose` for a model that is not trained here.",
    )
    target_vectors: SharedTargetVectors = key(
        SharedTargetVectors(), "Whether target vectors are computed before editors run."
    )
    evaluation: EditEvaluation = key(EditEvaluation(), "Metrics besides the probes.")
    survival: EditSurvival = key(EditSurvival(), "Whether edits survive fine-tuning.")
    site_sweep: SiteSweep = key(SiteSweep(), "At which sites the model can be edited.")


def uses_original_model(editor: Any) -> TypeGuard[ClosedFormEditor]:
    """Whether an editor's target vectors depend on the original model only, so that they can be computed in advance."""
    return isinstance(editor, ClosedFormEditor) and editor.schedule.kind != "sequential" and editor.spread == "residual"


def target_vector_source(config: Config, model: str, name: str) -> str | None:
    """The first editor of a model with the same target vectors as editor ``name``; None if ``name`` computes its own."""
    editors, edited = config.editors, config.models[model].editing

    def inputs(editor: Any) -> tuple[Any, ...]:
        schedule = editor.schedule
        return (
            schedule.kind,
            schedule.n_edits,
            editor.fact_token,
            editor.choose_by,
            editor.layers[-1],
            editor.values,
        )

    if edited is None or not edited.target_vectors.shared or not uses_original_model(editors[name]):
        return None
    candidates = (candidate for candidate in edited.editors if uses_original_model(editors[candidate]))
    return next(candidate for candidate in candidates if inputs(editors[candidate]) == inputs(editors[name]))


def problems(config: Config) -> Iterable[str]:
    """Errors that the types cannot express: undefined names, and settings that contradict each other."""
    for name, edited in config.running("editing"):
        where = f"models.{name}.editing"
        yield from missing(f"{where}.covariance", edited.covariance, config.covariances, "covariances")
        for covariance in covariances_of_model(config, name):
            corpus = config.covariances[covariance].corpus
            yield from missing(f"covariances.{covariance}.corpus", corpus, config.corpora, "corpora")
        yield from _request_problems(f"{where}.requests", edited.requests)
        if (corpus := edited.evaluation.perplexity_corpus) is not None:
            yield from missing(f"{where}.evaluation.perplexity_corpus", corpus, config.corpora, "corpora")
        for editor in edited.editors:
            yield from missing(f"{where}.editors", editor, config.editors, "editors")
        for editor in edited.survival.editors:
            yield from missing(f"{where}.survival.editors", editor, dict.fromkeys(edited.editors), f"{where}.editors")
            if editor in config.editors and config.editors[editor].schedule.kind == "single":
                yield f"{where}.survival.editors: `{editor}` rolls back each edit, so that no edit can survive"
        if edited.target_vectors.shards > 1 and not edited.target_vectors.shared:
            yield (
                f"{where}.target_vectors.shards is {edited.target_vectors.shards}, but each editor computes its own target "
                "vectors; set `shared: true`"
            )
        if config.models[name].world is None:
            yield from _world_problems(where, edited)
        yield from _site_problems(config, name, edited)
        yield from _covariance_problems(config, name, edited)
        n_edits = max((_n_edits(config.editors, editor) for editor in edited.editors), default=0)
        if n_edits > edited.requests.count:
            yield f"{where}.requests.count is {edited.requests.count}, but an editor takes {n_edits}; raise it"
        for editor in _editors_and_swept(edited):
            if editor in config.editors:
                yield from _editor_problems(config, editor)


def covariances_of_model(config: Config, model: str) -> list[str]:
    """Key covariances that a model's editors and its sweep of sites use."""
    if (edited := config.models[model].editing) is None:
        return []
    editors = [config.editors[name] for name in _editors_and_swept(edited) if name in config.editors]
    names = [edited.covariance, *(getattr(editor, "covariance", None) for editor in editors)]
    return [name for name in dict.fromkeys(names) if name is not None and name in config.covariances]


def _editors_and_swept(edited: ModelEditing) -> list[str]:
    """Editors of a model, and the editor of its sweep of sites, each once."""
    swept = edited.site_sweep.editor
    return list(dict.fromkeys([*edited.editors, *([] if swept is None else [swept])]))


def _editor_problems(config: Config, name: str) -> Iterable[str]:
    editor, where = config.editors[name], f"editors.{name}"
    if (covariance := getattr(editor, "covariance", None)) is not None:
        yield from missing(f"{where}.covariance", covariance, config.covariances, "covariances")
    if editor.kind == "mend":
        yield from missing(f"{where}.hypernetwork", editor.hypernetwork, config.hypernetworks, "hypernetworks")
    if editor.kind == "rome" and len(editor.layers) > 1:
        yield f"{where}.layers has {len(editor.layers)} layers; ROME edits one"
    if editor.kind == "rome" and editor.legacy and editor.fact_token != "subject_last":
        yield f"{where}.legacy needs `fact_token: subject_last`, the only token that the first ROME can edit"
    if editor.kind == "memit" and editor.update_norm_lambda and editor.mom2_update_weight is None:
        yield f"{where}.update_norm_lambda is in units of `mom2_update_weight`, which is null; set both, or neither"


def _site_problems(config: Config, name: str, edited: ModelEditing) -> Iterable[str]:
    where = f"models.{name}.editing"
    if (swept := edited.site_sweep.editor) is not None:
        yield from missing(f"{where}.site_sweep.editor", swept, config.editors, "editors")
        if (editor := config.editors.get(swept)) and not isinstance(editor, ClosedFormEditor):
            yield f"{where}.site_sweep.editor: `{swept}` is of kind {editor.kind}, which has no edit site"
    for editor_name in edited.editors:
        choose_by = getattr(config.editors.get(editor_name), "choose_by", "config")
        if choose_by == "sweep" and swept is None:
            yield f"{where}: editor `{editor_name}` has `choose_by: sweep`; name the editor of the sweep in `{where}.site_sweep.editor`"
        if choose_by not in ("config", "depth", "sweep") and config.models[name].tracing is None:
            yield f"{where}: editor `{editor_name}` has `choose_by: {choose_by}`; add `tracing` to models.{name}.stages"


def _covariance_problems(config: Config, name: str, edited: ModelEditing) -> Iterable[str]:
    """Layers that an editor edits but whose key covariance is not measured."""
    for editor_name in _editors_and_swept(edited):
        editor = config.editors.get(editor_name)
        if not isinstance(editor, ClosedFormEditor):
            continue
        covariance = editor.covariance or edited.covariance
        if covariance not in config.covariances or not config.covariances[covariance].layers:
            continue
        measured, layers = config.covariances[covariance].layers, editor.layers
        where = f"covariances.{covariance}.layers"
        if editor_name == edited.site_sweep.editor:
            layers = edited.site_sweep.layers if len(layers) == 1 else []
        if editor.choose_by != "config" or not layers:
            yield f"{where} names some blocks, but editor `{editor_name}` may edit others of `{name}`; empty it"
        # The number of blocks is unknown here, so layers counted from the front and from the end cannot be compared.
        elif len({layer < 0 for layer in [*layers, *measured]}) == 1 and (
            lacking := sorted(set(layers) - set(measured))
        ):
            yield f"{where} lacks {lacking}, which editor `{editor_name}` edits in `{name}`; add them"


def _world_problems(where: str, edited: ModelEditing) -> Iterable[str]:
    """Settings that need the facts of a world, which the model lacks."""
    remedy = "needs the facts of a world; set `world` of the model, or delete the key"
    if "world" in edited.evaluation.tasks:
        yield f"{where}.evaluation.tasks: `world` {remedy}"
    if edited.survival.editors:
        yield f"{where}.survival.editors {remedy}"


def _request_problems(where: str, requests: EditRequests) -> Iterable[str]:
    n_sources = (requests.path is not None) + (requests.dataset is not None)
    if requests.kind == "world" and n_sources:
        yield f"{where}.kind is world, which takes neither `path` nor `dataset`; name the file's layout"
    if requests.kind != "world" and n_sources != 1:
        yield f"{where}: requests of kind {requests.kind} need either `path` or `dataset`"
    if requests.kind != "world" and requests.known_only:
        yield f"{where}.known_only is for requests of kind world, not for a file of requests; delete the key"
    if requests.dataset is not None and requests.revision is None:
        yield f"{where}.revision is missing: without the dataset's commit a run could not be repeated"


def _n_edits(editors: Mapping[str, Any], name: str) -> int:
    return editors[name].schedule.n_edits if name in editors else 0
