"""Editing: which facts of which models are changed, by what, and how that is judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from factlife.config.base import Count, Name, Section, Share, key, missing
from factlife.config.editing_presets import with_preset


class Place(Section):
    """Where a model is edited."""

    token: Literal["subject_last", "last"] = key(
        "subject_last", "Token at which the new value is written: the subject's last, or the prompt's last."
    )
    layers: list[int] = key(
        [1], "Blocks whose MLP is changed, in their order; negative ones count from the end.", min_length=1
    )
    by: Literal["given", "sweep", "tracing", "tracing-noise", "tracing-window", "frozen", "depth"] = key(
        "given",
        "Who chooses: `given`, the keys beside this one; or a chooser of `edit_places.csv`: then of `layers` only their "
        "number counts, the chosen block being the last of them.",
    )
    spread: Literal["residual", "boundary"] = key(
        "residual",
        "`residual`: every layer writes its share of what the vectors after the last one ask for; `boundary`: only the "
        "first and the last are written, each with vectors of its own (BLUE).",
    )


class Values(Section):
    """How the vector is found that, written at the place, makes the model say the new value."""

    units: Literal["relative", "absolute"] = key(
        "relative",
        "What `rate` and `decay` count in: `relative` to ‖h‖ (see `scale`), so that they hold for models of any scale; "
        "`absolute`, as the originals do: Adam's plain step, and a decay of ‖δ‖ / ‖h‖².",
    )
    scale: Literal["stream", "mlp"] = key(
        "stream",
        "Whose norm at the place is ‖h‖, to which `clamp` is relative: the residual stream's (MEMIT), or that of what "
        "the MLP adds to it (ROME).",
    )
    steps: Count = key(25, "Gradient steps; the last only looks.")
    rate: float = key(0.2, "Step of Adam; relative: in units of ‖h‖ over the root of its width.", gt=0)
    clamp: float = key(1.0, "Longest vector, in units of ‖h‖.", gt=0)
    decay: float = key(0.05, "Weight of the vector's length; relative: of (‖δ‖ / ‖h‖)².", ge=0)
    kl: float = key(0.0625, "Weight of the divergence that keeps what else is said about the subject.", ge=0)
    kl_over: Literal["relations", "essence"] = key(
        "relations",
        "`relations`: the prompts of the subject's other facts, where they are known; `essence`: ROME's `… is a`.",
    )
    stop: float = key(0.05, "Loss in nats at which a request is done.", ge=0)
    argmax: Count | None = key(
        None,
        "A request is also done once the new value has been the most probable one in all contexts that many times "
        "(MPES, ENCORE's early stop).",
    )
    anchor: bool = key(
        False,
        "Give what the MLP is to write, vector included, the mean norm that it had over the first batch, in the "
        "original model; a vector that makes it longer than twice that is left out (NAS).",
    )
    contexts: int = key(5, "Sentences of the corpus that are put before the prompt, beside the bare prompt.", ge=0)
    joint: bool = key(True, "Find one vector for all requests about one subject, which share its last token's key.")
    batch: Count = key(64, "Vectors that are found at once; none depends on it.")


class Schedule(Section):
    """How many requests are written at once, and what is kept between batches."""

    kind: Literal["single", "batch", "sequential"] = key(
        "batch",
        "`single`: each by itself and rolled back; `batch`: all at once; `sequential`: batches upon one another.",
    )
    edits: Count = key(100, "Requests, from the first on.")
    batch: Count = key(10, "Requests in a batch, where sequential.")
    points: Count = key(5, "Times at which all edits so far are judged, where sequential.")


class _Editor(Section):
    """What all editors share."""

    kind: str
    preset: str | None = key(
        None, "The originals' hyper-parameters for a model, such as `gpt-j`, under the keys that are given beside it."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        return with_preset(given["kind"], given) if isinstance(given, Mapping) and given.get("preset") else given


class Rome(_Editor):
    """ROME (Meng et al. 2022) with the averaged key everywhere (r-ROME, Gupta et al. 2024): one request, exactly."""

    kind: Literal["rome"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(kind="single", edits=50), "When requests are written.")
    place: Place = key(Place(), "Where; one layer.")
    values: Values = key(Values(), "How new values are found.")
    moments: Name | None = key(None, "Second moments, of `editing.moments`; the model's where empty.")
    legacy: bool = key(
        False, "As first published: the bare prompt's key in the denominator, so that some edits disable the model."
    )
    spare: bool = key(True, "Spare the keys of the corpus: C; without, C is the identity, as in EasyEdit's settings.")


class Emmet(_Editor):
    """EMMET (Gupta et al. 2024): a batch of requests, exactly but for a ridge."""

    kind: Literal["emmet"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(), "When requests are written.")
    place: Place = key(Place(), "Where.")
    values: Values = key(Values(), "How new values are found.")
    moments: Name | None = key(None, "Second moments, of `editing.moments`; the model's where empty.")
    weight: float = key(0.1, "Ridge.", ge=0)


class Memit(_Editor):
    """MEMIT (Meng et al. 2023): a batch of requests, balanced against the keys of a corpus."""

    kind: Literal["memit"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(), "When requests are written.")
    place: Place = key(Place(), "Where; residuals are spread over the layers.")
    values: Values = key(Values(), "How new values are found.")
    moments: Name | None = key(None, "Second moments, of `editing.moments`; the model's where empty.")
    share: Annotated[float, Field(gt=0, lt=1)] = key(
        0.95, "Share of its vector that the average request gets; sets λ where `weight` is empty."
    )
    weight: float | None = key(
        None, "λ: how many keys of the corpus one edited key is worth, as the originals give it.", gt=0
    )
    remember: bool = key(False, "Spare the keys of earlier batches too (MEMIT sequential).")
    ridge: float = key(0.0, "Weight of the change's own squared norm (ENCORE), as the original gives it.", ge=0)


class AlphaEdit(_Editor):
    """AlphaEdit (Fang et al. 2025): a batch of requests, in the space that the corpus's keys leave free."""

    kind: Literal["alphaedit"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(), "When requests are written.")
    place: Place = key(Place(), "Where; residuals are spread over the layers.")
    values: Values = key(Values(), "How new values are found.")
    moments: Name | None = key(None, "Second moments, of `editing.moments`; the model's where empty.")
    share: Annotated[float, Field(gt=0, lt=1)] = key(
        0.9, "Share of its vector that the average request gets; sets the ridge where `weight` is empty."
    )
    weight: float | None = key(None, "The ridge L2, as the original gives it.", gt=0)
    energy: Share = key(
        0.02, "Share of the corpus keys' energy that the free space may hold, where `threshold` is empty."
    )
    threshold: float | None = key(None, "Largest eigenvalue of the free space, as the original gives it.", gt=0)


class LocFt(_Editor):
    """LocFT-BF (2025): plain fine-tuning of one down-projection, breadth first."""

    kind: Literal["locft"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(), "When requests are written.")
    layer: int = key(-1, "Block whose down-projection is trained; negative ones count from the end.")
    epochs: Count = key(25, "Times through the requests.")
    batch: Count = key(10, "Requests in a step.")
    rate: float = key(5e-4, "Learning rate of Adam.", gt=0)
    end: bool = key(False, "New values end with the end-of-text token.")


class Ft(_Editor):
    """FT-L (Zhu et al. 2020, Meng et al. 2022): fine-tuning of one down-projection, no entry of which moves far.

    Every token of a new value is predicted from those before it; the published code predicts them all from the prompt.
    """

    kind: Literal["ft"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(kind="single", edits=50), "When requests are written.")
    layer: int = key(-1, "Block whose down-projection is trained; negative ones count from the end.")
    steps: Count = key(25, "Times through the requests, at most.")
    batch: Count = key(100, "Requests in a step.")
    rate: float = key(5e-4, "Learning rate of Adam.", gt=0)
    units: Literal["relative", "absolute"] = key(
        "relative", "What `limit` counts in: standard deviations of the weight's entries, or the weight's own units."
    )
    limit: float = key(0.2, "Farthest that an entry of the weight may move.", gt=0)
    stop: float = key(1e-2, "Mean loss in nats at which training ends.", ge=0)
    end: bool = key(False, "New values end with the end-of-text token.")


class Lora(_Editor):
    """LoRA (Hu et al. 2022) on all linear maps of some blocks, merged into the weights."""

    kind: Literal["lora"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(), "When requests are written.")
    layers: list[int] | None = key(None, "Blocks, negative ones count from the end; empty for all.")
    rank: Count = key(8, "Rank of each change.")
    alpha: float = key(16.0, "Changes are scaled by this over `rank`.", gt=0)
    epochs: Count = key(30, "Times through the requests.")
    batch: Count = key(10, "Requests in a step.")
    rate: float = key(5e-3, "Learning rate of Adam.", gt=0)
    end: bool = key(False, "New values end with the end-of-text token.")
    seed: int = key(0, "Seed of the first factors.", ge=0)


class UltraEdit(_Editor):
    """UltraEdit (Gu et al. 2025, 2505.14679): one pass forward and one backward, no target values, no subject."""

    kind: Literal["ultraedit"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(), "When requests are written.")
    layers: list[int] = key([-2, -1], "Blocks whose down-projections are changed, where `modules` is empty.")
    modules: list[str] = key([], "Linear maps that are changed, by their names in the model.")
    units: Literal["relative", "absolute"] = key(
        "relative",
        "What `rate` and `ridge` count in: `relative`: the root mean square of what the map returns at the answers, and "
        "mean squared entries of its keys; `absolute`, as the original does.",
    )
    rate: float = key(1.0, "Size of the step against the normalised gradient.", gt=0)
    ridge: float = key(1.0, "Ridge.", gt=0)


class Mend(_Editor):
    """MEND (Mitchell et al. 2022): a trained network makes the change of the request's gradient."""

    kind: Literal["mend"] = key(..., "The editor.")
    schedule: Schedule = key(Schedule(), "When requests are written.")
    hypernetwork: Name = key(..., "The network, of `editing.hypernetworks`.")


Editor = Annotated[Rome | Emmet | Memit | AlphaEdit | LocFt | Ft | Lora | UltraEdit | Mend, Field(discriminator="kind")]
Located = Rome | Emmet | Memit | AlphaEdit


class Moments(Section):
    """Second moments of what down-projections read."""

    corpus: Name = key(..., "The corpus that is read.")
    multiple: Count = key(
        100, "Tokens, as a multiple of the keys' width; 100 for specificity, 10 is a floor for efficacy."
    )
    edited: bool = key(True, "Read documents that mention subjects of the requests too.")
    layers: list[int] = key(
        [],
        "Blocks that are measured, negative ones count from the end; later ones do not run. All where none is named.",
    )


class Hypernetwork(Section):
    """MEND's network, trained on requests about subjects that no evaluated request is about."""

    layers: list[int] = key(
        [-3, -2, -1], "Blocks whose MLPs are changed, all their linear maps, where `modules` is empty."
    )
    modules: list[str] = key([], "Linear maps that are changed, by their names in the model.")
    rank: Count = key(256, "Width of the network's two layers, each a product of two thin matrices; 1920 is published.")
    rate: float = key(1e-3, "Size of each map's change at first; learned.", gt=0)
    lessons: Count = key(1000, "Requests to learn from, at most.")
    steps: Count = key(1000, "Steps of training.")
    batch: Count = key(10, "Requests that are written at once in a step: as many as the editor is to write at once.")
    learning_rate: float = key(1e-3, "Learning rate of Adam; ten times that for the sizes of changes.", gt=0)
    edit_weight: float = key(0.1, "Weight of the new values' loss against that of all that is to stay.", gt=0)
    clip: float = key(100.0, "Largest norm of the gradient of a step.", gt=0)
    seed: int = key(0, "Seed of the network and of the order of the lessons.", ge=0)


class Requests(Section):
    """Which facts are to be changed."""

    kind: Literal["world", "counterfact", "multi-counterfact", "easyedit", "zsre", "wikibigedit"] = key(
        "world",
        "`world`: facts of the model's world, those of the panel first, then others that were taught; else the layout of "
        "`path` or `dataset`, where `easyedit` is EasyEdit's form of CounterFact.",
    )
    path: str | None = key(None, "A local file: a JSON list, JSON lines or Parquet.")
    dataset: str | None = key(None, "Hub dataset.")
    revision: str | None = key(None, "Commit of the hub dataset.")
    split: str = key("train", "Split of the hub dataset.")
    snippets: str | None = key(None, "CounterFact's `attribute_snippets.json`, for consistency.")
    answer: Literal["true", "alternative"] = key(
        "true", "Of zsRE, the new value: the true answer (MEMIT, AlphaEdit), or `alt` (MEND, EasyEdit)."
    )
    count: Count = key(100, "Requests; of files, the first ones.")
    known: bool = key(
        False,
        "Of worlds: only facts that the model tells, by argmax, asked with one of their trained prompts; neighbours and "
        "other facts are asked about where the model tells them too.",
    )
    seed: int = key(0, "Of worlds, seed of the order and of the new values.", ge=0)


class Survival(Section):
    """Fine-tuning of edited models, and of the unedited one alike."""

    editors: list[Name] = key([], "Editors whose edits are followed; those that write batches.")
    finetunings: list[Literal["full", "lora", "dora"]] = key(["lora"], "How models are fine-tuned.", min_length=1)
    data: list[Literal["related", "unrelated", "mentioning"]] = key(
        ["related", "unrelated", "mentioning"],
        "On which documents of the corpus: `related`: facts of other people; `unrelated`: nobody's facts; `mentioning`: "
        "edited subjects are mentioned, as they are in the corpus, so that most restate old values.",
        min_length=1,
    )
    trained_layers: list[Literal["all", "edited", "others"]] = key(
        ["all"], "Which blocks are trained: all, those that the editor changed, or all others.", min_length=1
    )
    steps: list[Count] = key([10, 30, 100], "Steps after which models are asked.", min_length=1)
    relearning: list[Count] = key(
        [1, 2, 4, 8],
        "Steps after which edits are asked that fine-tuning erased and that are taught again; none for no such probe.",
    )
    batch_size: Count = key(16, "Documents in a step.")
    rate: float = key(1e-3, "Learning rate of Adam for LoRA and DoRA.", gt=0)
    full_rate: float = key(2e-4, "Learning rate of Adam for full fine-tuning.", gt=0)
    rank: Count = key(8, "Rank of LoRA and DoRA; their α is twice that.")
    seed: int = key(0, "Seed of the adapters and of the documents' order.", ge=0)


class Places(Section):
    """Where a model can be edited: every token and block in turn, beside what predicts the best of them."""

    editor: Name | None = key(
        None, "Editor whose settings are used at every place, with as many layers as it has; none for no sweep."
    )
    edits: Count = key(50, "Requests in the batch, from the first on.")
    distinct: bool = key(True, "Take only the first request of each subject.")
    tokens: list[Literal["subject_last", "last"]] = key(
        ["subject_last", "last"], "Tokens that are tried.", min_length=1
    )
    layers: list[int] = key([], "Blocks that are tried; all of them where none is named.")
    depth: Annotated[float, Field(ge=0, le=1)] = key(
        0.25, "Share of the depth at which chooser `depth` edits; published editors lie between 0.11 and 0.35."
    )


class Measured(Section):
    """What is measured beside the probes, before editing and where all edits are judged."""

    texts: int = key(0, "Edits about which the model writes texts, for fluency and consistency.", ge=0)
    tokens: Count = key(100, "Tokens that are written of a text.")
    perplexity: Name | None = key(
        None, "Corpus that is read for perplexity: its held-out documents, or all, that mention no edited subject."
    )
    documents: Count = key(200, "Documents that are read.")
    tasks: list[str] = key(
        [],
        "Multiple-choice tasks before and after: `world`, made from the model's world, and tasks of "
        "lm-evaluation-harness, such as `arc_easy`, whose data it fetches from the hub.",
    )


class Finding(Section):
    """Target values found before editors run."""

    shared: bool = key(
        False,
        "Find them in jobs of their own; editors with the same place, search and requests share what is found. Else, and "
        "always in sequences and at a boundary, where they depend on earlier changes, each editor's job finds its own.",
    )
    shards: Count = key(1, "Jobs over which they are spread, in whole batches of `values.batch` vectors.")


class Edited(Section):
    """What is done to one model."""

    moments: Name = key(..., "Second moments, of `editing.moments`; their corpus gives the contexts too.")
    requests: Requests = key(Requests(), "The requests.")
    editors: list[Name] = key(..., "Editors, of `editing.editors`.", min_length=1)
    values: Finding = key(Finding(), "Whether target values are found before editors run.")
    measures: Measured = key(Measured(), "What is measured beside the probes.")
    survival: Survival = key(Survival(), "Whether edits survive fine-tuning.")
    places: Places = key(Places(), "Where the model can be edited.")


class Editing(Section):
    """Models, editors and second moments."""

    models: dict[Name, Edited] = key({}, "What is edited, by model; those that are run.")
    moments: dict[Name, Moments] = key({}, "Second moments by name.")
    hypernetworks: dict[Name, Hypernetwork] = key({}, "MEND's networks by name.")
    editors: dict[Name, Editor] = key({}, "Editors by name.")


def values_are_known_before(editor: Any) -> bool:
    """Whether an editor's target values are those of the original model."""
    return isinstance(editor, Located) and editor.schedule.kind != "sequential" and editor.place.spread == "residual"


def found_by(editing: Editing, model: str, name: str) -> str | None:
    """The first of a model's editors that seeks the same target values as one; None where that finds them in its job."""
    editors, edited = editing.editors, editing.models[model]

    def sought(editor: Any) -> tuple:
        schedule, place = editor.schedule, editor.place
        return schedule.kind, schedule.edits, place.token, place.by, place.layers[-1], editor.values

    if not edited.values.shared or not values_are_known_before(editors[name]):
        return None
    alike = (one for one in edited.editors if values_are_known_before(editors[one]))
    return next(one for one in alike if sought(editors[one]) == sought(editors[name]))


def problems(config: Any) -> Iterable[str]:
    """What the types cannot see: names that point nowhere, and settings that contradict each other."""
    editing, models = config.editing, config.models
    for name, moments in editing.moments.items():
        yield from missing(f"editing.moments.{name}.corpus", moments.corpus, config.corpora, "corpora")
    for name, edited in editing.models.items():
        where = f"editing.models.{name}"
        yield from missing(where, name, models, "models")
        yield from missing(f"{where}.moments", edited.moments, editing.moments, "editing.moments")
        yield from _of_requests(f"{where}.requests", edited.requests)
        if edited.measures.perplexity is not None:
            yield from missing(f"{where}.measures.perplexity", edited.measures.perplexity, config.corpora, "corpora")
        for editor in edited.editors:
            yield from missing(f"{where}.editors", editor, editing.editors, "editing.editors")
        for editor in edited.survival.editors:
            yield from missing(f"{where}.survival.editors", editor, dict.fromkeys(edited.editors), f"{where}.editors")
            if editor in editing.editors and editing.editors[editor].schedule.kind == "single":
                yield f"{where}.survival.editors: `{editor}` rolls its edits back, so that none is left to survive"
        if edited.values.shards > 1 and not edited.values.shared:
            yield f"{where}.values.shards is {edited.values.shards}, but each editor's job finds its own; set `shared: true`"
        yield from _of_places(config, name, edited)
        yield from _of_moments(editing, name, edited)
        wanted = max((_edits(editing.editors, editor) for editor in edited.editors), default=0)
        if wanted > edited.requests.count:
            yield f"{where}.requests.count is {edited.requests.count}, but an editor takes {wanted}; raise it"
    for name, editor in editing.editors.items():
        if (moments := getattr(editor, "moments", None)) is not None:
            yield from missing(f"editing.editors.{name}.moments", moments, editing.moments, "editing.moments")
        if editor.kind == "mend":
            yield from missing(
                f"editing.editors.{name}.hypernetwork",
                editor.hypernetwork,
                editing.hypernetworks,
                "editing.hypernetworks",
            )
        if editor.kind == "rome" and len(editor.place.layers) > 1:
            yield f"editing.editors.{name}.place.layers has {len(editor.place.layers)} layers; ROME edits one"
        if editor.kind == "rome" and editor.legacy and editor.place.token != "subject_last":
            yield f"editing.editors.{name}.legacy needs place.token subject_last, the only one that the first ROME knew"
        if editor.kind == "memit" and editor.ridge and editor.weight is None:
            yield f"editing.editors.{name}.ridge counts in units of `weight`, which is empty; give both, or neither"


def _of_places(config: Any, name: str, edited: Edited) -> Iterable[str]:
    editing, where = config.editing, f"editing.models.{name}"
    if edited.places.editor is not None:
        yield from missing(f"{where}.places.editor", edited.places.editor, editing.editors, "editing.editors")
        if (editor := editing.editors.get(edited.places.editor)) and not isinstance(editor, Located):
            yield f"{where}.places.editor: `{edited.places.editor}` is of kind {editor.kind}, which has no place"
    for editor in edited.editors:
        by = getattr(getattr(editing.editors.get(editor), "place", None), "by", "given")
        if by == "sweep" and edited.places.editor is None:
            yield f"{where}: editor `{editor}` is placed by `sweep`; name the editor that sweeps in `{where}.places.editor`"
        if by not in ("given", "depth", "sweep") and name not in config.tracing.models:
            yield f"{where}: editor `{editor}` is placed by `{by}`; add `{name}` to `tracing.models`"


def _of_moments(editing: Editing, name: str, edited: Edited) -> Iterable[str]:
    """Blocks that editors change and whose second moments are not measured."""
    for editor_name in dict.fromkeys([*edited.editors, edited.places.editor]):
        editor = editing.editors.get(editor_name)
        if not isinstance(editor, Located):
            continue
        measured = editor.moments or edited.moments
        if measured not in editing.moments or not editing.moments[measured].layers:
            continue
        there, layers = editing.moments[measured].layers, editor.place.layers
        where = f"editing.moments.{measured}.layers"
        if editor_name == edited.places.editor:
            layers = edited.places.layers if len(layers) == 1 else []
        if editor.place.by != "given" or not layers:
            yield f"{where} names some blocks, but editor `{editor_name}` may change others of `{name}`; empty it"
        # How many blocks there are is not known here: first and last ones cannot be compared.
        elif len({layer < 0 for layer in [*layers, *there]}) == 1 and (lacking := sorted(set(layers) - set(there))):
            yield f"{where} lacks {lacking}, which editor `{editor_name}` changes in `{name}`; add them"


def _of_requests(where: str, requests: Requests) -> Iterable[str]:
    given = (requests.path is not None) + (requests.dataset is not None)
    if requests.kind == "world" and given:
        yield f"{where}.kind is world, which takes neither `path` nor `dataset`; name the file's layout"
    if requests.kind != "world" and given != 1:
        yield f"{where}: give either `path` or `dataset`, where requests of kind {requests.kind} are"
    if requests.dataset is not None and requests.revision is None:
        yield f"{where}.revision is missing: without the dataset's commit a run could not be repeated"


def _edits(editors: Mapping[str, Any], name: str) -> int:
    return editors[name].schedule.edits if name in editors else 0
