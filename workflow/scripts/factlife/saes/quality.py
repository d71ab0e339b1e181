"""How good a dictionary is: what it explains, what the model still knows with it spliced in, beside PCA and ablation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from factlife import stats
from factlife.config.dictionaries import DictionarySettings
from factlife.models.anatomy import anatomy, patch
from factlife.recall.score import score
from factlife.saes.activations import (
    ActivationPair,
    DictionarySite,
    dictionary_sites,
    read_activations,
    special_tokens_mask,
    token_batches,
)
from factlife.saes.dictionary import Dictionary
from factlife.saes.probing import probe_layer

# What takes a place's activation: gets what is read and what is written there, (…, d), returns (…, d).
Substitute = Callable[[Tensor, Tensor], Tensor]


def evaluate_dictionaries(
    model: Any,
    tokenizer: Any,
    dictionaries: list[Dictionary],
    settings: DictionarySettings,
    *,
    train: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    probes: pd.DataFrame,
) -> pd.DataFrame:
    """All metrics of one model's dictionaries, with their controls, and with all layers replaced at once.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        dictionaries: one a layer.
        settings: as they were trained.
        train: token ids of some documents, for the controls' means and axes.
        held_out: token ids of documents on which no dictionary was trained.
        probes: forward probes of taught facts, with the facts' ``relation``, ``value`` and ``panel``.

    Returns:
        ``site, layer, architecture, metric, n, estimate, ci_low, ci_high, interval_over, k``; in column
        ``architecture`` also the controls ``pca`` (of rank k), ``mean`` and ``zero``, and for probing ``raw``.
    """
    ids, mask = next(token_batches(train, 2 * settings.evaluation_tokens, tokenizer.pad_token_id or 0))
    device = next(model.parameters()).device
    keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
    sample = [(x[keep], y[keep]) for x, y in read_activations(model, ids.to(device), mask.to(device), settings.site)]
    chosen = [
        build_substitutes(dictionary, pair, settings.k, settings.architecture)
        for dictionary, pair in zip(dictionaries, sample, strict=True)
    ]
    full = settings.evaluation == "full"
    text = evaluate_on_text(model, tokenizer, held_out, settings.site, chosen, splice=full)
    features, alive = count_active_features(model, tokenizer, held_out, settings.site, dictionaries)
    panel = (probes[probes["panel"]] if probes["panel"].any() else probes).drop_duplicates("fact_id")
    facts = evaluate_on_facts(model, tokenizer, panel, settings.site, chosen, splice=full)
    table = summarise_quality(text, features, alive, facts, resamples=settings.resamples)
    if full:
        probed = _probed(model, tokenizer, dictionaries, settings, probes)
        table = pd.concat([table, _probing(probed, settings.architecture, settings.resamples)], ignore_index=True)
    table.insert(0, "site", settings.site)
    return table.assign(k=settings.k)


def _probed(
    model: Any, tokenizer: Any, dictionaries: list[Dictionary], settings: DictionarySettings, probes: pd.DataFrame
) -> pd.DataFrame:
    """Accuracies of probes of every layer."""
    pairs = activations_before_values(model, tokenizer, probes["prompt"].tolist(), settings.site)
    told = probes.assign(subject=probes["fact_id"].str.split(".").str[0])
    return pd.concat(
        [
            probe_layer(x.cpu().numpy(), dictionary.encode(x).cpu().numpy(), told).assign(layer=layer)
            for layer, (dictionary, (x, _)) in enumerate(zip(dictionaries, pairs, strict=True))
        ]
    )


def _probing(probed: pd.DataFrame, architecture: str, resamples: int) -> pd.DataFrame:
    """Mean accuracies over tasks, of relations and of values apart."""
    rows = [pd.DataFrame()]
    kinds = probed["task"].str.split(" ").str[0]
    for (layer, kind, source, k), one in probed.groupby(["layer", kinds, "source", "k"], sort=False):
        interval = stats.cluster_bootstrap(one[["accuracy"]].to_numpy(), one["task"].to_numpy(), resamples=resamples)
        keys = {"layer": layer, "architecture": architecture if source == "features" else source}
        rows.append(stats.tidy(keys, [f"probing_{kind}_k_{k}"], interval, over="tasks"))
    return pd.concat(rows, ignore_index=True)


def build_substitutes(dictionary: Dictionary, sample: ActivationPair, rank: int, name: str) -> dict[str, Substitute]:
    """A dictionary and its controls: PCA of a rank, the mean, and nothing, from a sample of what is written."""
    mean = sample[1].mean(0)
    axes = torch.linalg.eigh((sample[1] - mean).double().T.cov()).eigenvectors[:, -rank:].T.to(mean)
    return {
        name: lambda x, y: dictionary(x),
        "pca": lambda x, y: mean + (y - mean) @ axes.T @ axes,
        "mean": lambda x, y: mean.expand_as(y),
        "zero": lambda x, y: torch.zeros_like(y),
    }


@contextmanager
def spliced(model: Any, tokenizer: Any, chosen: Sequence[tuple[DictionarySite, Substitute]]) -> Iterator[None]:
    """The model with substitutes in their places; special tokens keep what they have."""
    taken: dict[str, Tensor] = {}

    def substitute(place: DictionarySite, fn: Substitute) -> Callable[[Tensor], Tensor]:
        def put(written: Tensor) -> Tensor:
            said = fn(taken[place] if place.input else written, written)
            return torch.where(special_tokens_mask(tokenizer, taken["ids"])[..., None], written, said)

        return put

    with ExitStack() as stack:
        ids = anatomy(model).embeddings[0]
        stack.enter_context(patch(ids, lambda x: taken.__setitem__("ids", x), inputs=True))
        for place, fn in chosen:
            if place.input:
                keep = lambda x, place=place: taken.__setitem__(place, x)  # noqa: E731
                stack.enter_context(patch(place.reads, keep, inputs=True))
            stack.enter_context(patch(place.writes, substitute(place, fn)))
        yield


def evaluate_on_text(
    model: Any, tokenizer: Any, sequences: Sequence[Sequence[int]], site: str, chosen: list[dict[str, Substitute]],
    *, splice: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Sums over each document of what the metrics are made of, special tokens left out.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sequences: token ids of documents that no dictionary was trained on.
        site: of the config.
        chosen: for each layer the substitutes by name.
        splice: run the model with each substitute in its place; if not, what that tells is empty.

    Returns:
        One row per document, layer and substitute: ``tokens`` described, their ``error`` (squared), ``variance``
        around the mean of all, ``cosine``, ``length`` (of the reconstruction over that of the activation); ``predicted``
        next tokens, their ``loss`` and the ``clean`` model's, both in nats, and ``kl`` from it.
    """
    where, rows = dictionary_sites(anatomy(model), site), []
    mean = _means(model, tokenizer, sequences, site)
    device, first = next(model.parameters()).device, 0
    for ids, mask in token_batches(sequences, 4096, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
        clean = _log_probabilities(model, ids, mask) if splice else None
        nothing = dict.fromkeys(("predicted", "loss", "clean", "kl"), torch.full(mask.shape, torch.nan))
        for layer, (x, y) in enumerate(read_activations(model, ids, mask, site)):
            for name, fn in chosen[layer].items():
                said = fn(x, y)
                sums = {
                    "tokens": keep,
                    "error": keep * (said - y).square().sum(-1),
                    "variance": keep * (y - mean[layer]).square().sum(-1),
                    "cosine": keep * torch.cosine_similarity(said, y, dim=-1),
                    "length": keep * said.norm(dim=-1) / y.norm(dim=-1),
                }
                if splice:
                    with spliced(model, tokenizer, [(where[layer], fn)]):
                        sums |= _predictions(clean, _log_probabilities(model, ids, mask), ids, mask)
                rows.append(_frame(nothing | sums, layer, name, first))
        if splice and len(chosen) > 1:
            for name in chosen[0]:
                with spliced(model, tokenizer, [(place, by[name]) for place, by in zip(where, chosen, strict=True)]):
                    sums = _predictions(clean, _log_probabilities(model, ids, mask), ids, mask)
                rows.append(_frame(sums, "all", name, first))
        first += len(ids)
    return pd.concat(rows, ignore_index=True)


def count_active_features(
    model: Any, tokenizer: Any, sequences: Sequence[Sequence[int]], site: str, dictionaries: list[Dictionary]
) -> tuple[pd.DataFrame, list[Tensor]]:
    """Sums over documents of active features (``active``, ``tokens``), and how often each feature is active."""
    rows, counts = [], [torch.zeros(dictionary.d_sae) for dictionary in dictionaries]
    device, first = next(model.parameters()).device, 0
    for ids, mask in token_batches(sequences, 8192, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
        for layer, (x, _) in enumerate(read_activations(model, ids, mask, site)):
            active = (dictionaries[layer].encode(x) > 0) & keep[..., None]
            counts[layer] += active.sum((0, 1)).cpu()
            rows.append(_frame({"tokens": keep, "active": active.sum(-1)}, layer, "dictionary", first))
        first += len(ids)
    return pd.concat(rows, ignore_index=True), counts


def forward_probes(facts: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """The forward probes of taught facts, with their ``relation``, ``value`` and ``panel``."""
    taught = facts.loc[facts["seen"], ["fact_id", "relation", "value", "panel"]]
    return probes[probes["kind"] == "forward"].merge(taught, on="fact_id")


def activations_before_values(model: Any, tokenizer: Any, prompts: Sequence[str], site: str) -> list[ActivationPair]:
    """What is read and written at each layer at the last token of each prompt, where a value should follow."""
    ids = tokenizer(list(prompts))["input_ids"]
    device = next(model.parameters()).device
    found: list[list[ActivationPair]] = []
    for rows, mask in token_batches(ids, 8192, tokenizer.pad_token_id or 0):
        rows, mask = rows.to(device), mask.to(device)
        last = torch.arange(len(rows), device=device), mask.sum(1) - 1
        found.append([(x[last], y[last]) for x, y in read_activations(model, rows, mask, site)])
    return [
        (torch.cat([batch[layer][0] for batch in found]), torch.cat([batch[layer][1] for batch in found]))
        for layer in range(len(found[0]))
    ]


def summarise_quality(
    text: pd.DataFrame, features: pd.DataFrame, alive: list[Tensor], facts: pd.DataFrame, *, resamples: int
) -> pd.DataFrame:
    """Metrics with intervals over documents or facts: ``layer, architecture, metric, n, estimate, ci_low, …``."""
    zero = text[text["name"] == "zero"].set_index(["layer", "document"])["loss"]
    mean = text[text["name"] == "mean"].set_index(["layer", "document"])["loss"]
    kl = text[text["name"] == "zero"].set_index(["layer", "document"])["kl"]
    rows = []
    for (layer, name), one in text.groupby(["layer", "name"], sort=False):
        at = pd.MultiIndex.from_frame(one[["layer", "document"]])
        none, average, far = (column.reindex(at).to_numpy() for column in (zero, mean, kl))
        sums = {column: one[column].to_numpy() for column in one.columns if column not in ("layer", "name")}
        ratios = {
            "explained_variance": (sums["variance"] - sums["error"], sums["variance"]),
            "mse": (sums["error"], sums["tokens"]),
            "cossim": (sums["cosine"], sums["tokens"]),
            "l2_ratio": (sums["length"], sums["tokens"]),
            "ce_loss_with_sae": (sums["loss"], sums["predicted"]),
            "ce_loss_without_sae": (sums["clean"], sums["predicted"]),
            "ce_loss_with_ablation": (none, sums["predicted"]),
            "ce_loss_score": (none - sums["loss"], none - sums["clean"]),
            "ce_loss_score_mean_ablation": (average - sums["loss"], average - sums["clean"]),
            "kl_div_with_sae": (sums["kl"], sums["predicted"]),
            "kl_div_score": (far - sums["kl"], far),
        }
        rows.append(_ratios({"layer": layer, "architecture": name}, ratios, sums["document"], "documents", resamples))
    dictionary = next(iter(text["name"]))
    for layer, one in features.groupby("layer", sort=False):
        ratios = {"l0": (one["active"].to_numpy(), one["tokens"].to_numpy())}
        keys = {"layer": layer, "architecture": dictionary}
        rows.append(_ratios(keys, ratios, one["document"].to_numpy(), "documents", resamples))
        share = float((alive[layer] > 0).float().mean())
        rows.append(pd.DataFrame([keys | {"metric": "frac_alive", "n": len(alive[layer]), "estimate": share}]))
    for (layer, name), one in facts.groupby(["layer", "name"], sort=False):
        ratios = {
            "explained_variance_before_value": (
                (one["variance"] - one["error"]).to_numpy(),
                one["variance"].to_numpy(),
            ),
            "recall": (one["recalled"].to_numpy(), np.ones(len(one))),
            "recall_preserved": (one["recalled"].to_numpy(), one["clean"].to_numpy()),
        }
        keys = {"layer": layer, "architecture": name}
        rows.append(_ratios(keys, ratios, one["subject"].to_numpy(), "facts", resamples))
    return pd.concat(rows, ignore_index=True)


def evaluate_on_facts(
    model: Any,
    tokenizer: Any,
    probes: pd.DataFrame,
    site: str,
    chosen: list[dict[str, Substitute]],
    *,
    splice: bool = True,
) -> pd.DataFrame:
    """What substitutes do to facts.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        probes: forward probes of taught facts.
        site: of the config.
        chosen: for each layer the substitutes by name.
        splice: as of ``evaluate_on_text``.

    Returns:
        One row per layer, substitute and probe: ``subject``, ``error`` and ``variance`` at the position before the
        value, whether the value's first token is ``recalled`` with the substitute, and by the ``clean`` model.
    """
    where = dictionary_sites(anatomy(model), site)
    nothing = np.full(len(probes), np.nan)

    def asked() -> np.ndarray:
        if not splice:
            return nothing
        return score(model, tokenizer, probes)["first_token_correct"].fillna(False).to_numpy(dtype=float)

    clean = asked()
    subjects, rows = probes["fact_id"].str.split(".").str[0].to_numpy(), []

    def recalled(pairs: list[tuple[DictionarySite, Substitute]]) -> np.ndarray:
        with spliced(model, tokenizer, pairs):
            return asked()

    for layer, (x, y) in enumerate(activations_before_values(model, tokenizer, probes["prompt"].tolist(), site)):
        variance = (y - y.mean(0)).square().sum(-1).cpu().numpy()
        for name, fn in chosen[layer].items():
            error = (fn(x, y) - y).square().sum(-1).cpu().numpy()
            said = recalled([(where[layer], fn)])
            rows.append(_facts(layer, name, subjects, error, variance, said, clean))
    if splice and len(chosen) > 1:
        for name in chosen[0]:
            said = recalled([(place, by[name]) for place, by in zip(where, chosen, strict=True)])
            rows.append(_facts("all", name, subjects, nothing, nothing, said, clean))
    return pd.concat(rows, ignore_index=True)


def _facts(
    layer: int | str, name: str, subjects: Any, error: Any, variance: Any, said: Any, clean: Any
) -> pd.DataFrame:
    columns = {"subject": subjects, "error": error, "variance": variance, "recalled": said, "clean": clean}
    return pd.DataFrame({"layer": layer, "name": name, **columns})


def _ratios(keys: dict, ratios: dict[str, tuple], clusters: np.ndarray, over: str, resamples: int) -> pd.DataFrame:
    above, below = (np.stack([np.asarray(pair[side], dtype=float) for pair in ratios.values()], 1) for side in (0, 1))
    interval = stats.ratio_bootstrap(above, below, clusters, resamples=resamples)
    return stats.tidy(keys, list(ratios), interval, over=over)


def _means(model: Any, tokenizer: Any, sequences: Sequence[Sequence[int]], site: str) -> list[Tensor]:
    sums: list[Any] = []
    count, device = 0, next(model.parameters()).device
    for ids, mask in token_batches(sequences, 8192, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
        found = [y[keep].sum(0) for _, y in read_activations(model, ids, mask, site)]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        count += int(keep.sum())
    return [total / count for total in sums]


def _log_probabilities(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)


def _predictions(clean: Tensor, said: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Losses of the next token, and KL from the clean model, (batch, position), nothing where none is predicted."""
    predicted = mask[:, 1:].bool()
    loss = -said[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    before = -clean[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    kl = (clean.exp() * (clean - said)).sum(-1)[:, :-1]
    return {"predicted": predicted, "loss": predicted * loss, "clean": predicted * before, "kl": predicted * kl}


def _frame(sums: dict[str, Tensor], layer: int | str, name: str, first: int) -> pd.DataFrame:
    columns = {key: value.double().sum(1).cpu().numpy() for key, value in sums.items()}
    documents = range(first, first + len(next(iter(columns.values()))))
    return pd.DataFrame({"layer": layer, "name": name, "document": documents, **columns})
