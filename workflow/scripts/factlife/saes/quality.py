"""Quality of dictionaries: reconstruction, and the model's loss and recall with the dictionary spliced in.

The controls are PCA of the same rank, the mean activation and zero ablation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from factlife import stats
from factlife.config.dictionaries import DictionarySettings
from factlife.models.anatomy import get_anatomy, patch
from factlife.recall.score import score_probes
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Maps the input and the output at a site, both (…, d), to a replacement of the output, (…, d).
Substitute = Callable[[Tensor, Tensor], Tensor]


def evaluate_dictionaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dictionaries: list[Dictionary],
    settings: DictionarySettings,
    *,
    train: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    probes: pd.DataFrame,
    resamples: int,
) -> pd.DataFrame:
    """All metrics of one model's dictionaries and of their controls, by layer and with all layers replaced at once.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        dictionaries: one per layer.
        settings: settings with which they were trained.
        train: token ids of some documents, for the controls' means and axes.
        held_out: token ids of documents on which no dictionary was trained.
        probes: forward probes of seen facts, with the facts' ``relation``, ``value`` and ``panel``.
        resamples: bootstrap resamples.

    Returns:
        ``site, layer, architecture, metric, n, estimate, ci_low, ci_high, interval_over, k``; column ``architecture``
        also holds the controls ``pca`` (of rank k), ``mean`` and ``zero``, and for probing ``raw``.
    """
    ids, mask = next(token_batches(train, 2 * settings.evaluation_tokens, tokenizer.pad_token_id or 0))
    device = next(model.parameters()).device
    keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
    pairs = read_activations(model, ids.to(device), mask.to(device), settings.site)
    sample = [(x[keep], y[keep]) for x, y in pairs]
    substitutes = [
        build_substitutes(dictionary, pair, settings.k, settings.architecture)
        for dictionary, pair in zip(dictionaries, sample, strict=True)
    ]
    full = settings.evaluation == "full"
    text = evaluate_on_text(model, tokenizer, held_out, settings.site, substitutes, splice=full)
    features, active_counts = count_active_features(model, tokenizer, held_out, settings.site, dictionaries)
    panel = (probes[probes["panel"]] if probes["panel"].any() else probes).drop_duplicates("fact_id")
    facts = evaluate_on_facts(model, tokenizer, panel, settings.site, substitutes, splice=full)
    table = summarise_quality(text, features, active_counts, facts, resamples=resamples)
    if full:
        accuracies = _probing_accuracies(model, tokenizer, dictionaries, settings, probes)
        probing = _summarise_probing(accuracies, settings.architecture, resamples)
        table = pd.concat([table, probing], ignore_index=True)
    table.insert(0, "site", settings.site)
    return table.assign(k=settings.k)


def _probing_accuracies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dictionaries: list[Dictionary],
    settings: DictionarySettings,
    probes: pd.DataFrame,
) -> pd.DataFrame:
    """Accuracy of every probe of every layer."""
    pairs = activations_before_values(model, tokenizer, probes["prompt"].tolist(), settings.site)
    prompts = probes.assign(subject=probes["fact_id"].str.split(".").str[0])
    return pd.concat(
        [
            probe_layer(x.cpu().numpy(), dictionary.encode(x).cpu().numpy(), prompts).assign(layer=layer)
            for layer, (dictionary, (x, _)) in enumerate(zip(dictionaries, pairs, strict=True))
        ]
    )


def _summarise_probing(accuracies: pd.DataFrame, architecture: str, resamples: int) -> pd.DataFrame:
    """Mean accuracy over tasks, separately for relations and values."""
    rows = [pd.DataFrame()]
    kinds = accuracies["task"].str.split(" ").str[0]
    for (layer, kind, source, k), group in accuracies.groupby(["layer", kinds, "source", "k"], sort=False):
        interval = stats.cluster_bootstrap(
            group[["accuracy"]].to_numpy(), group["task"].to_numpy(), resamples=resamples
        )
        keys = {"layer": layer, "architecture": architecture if source == "features" else source}
        rows.append(stats.summary_rows(keys, [f"probing_{kind}_k_{k}"], interval, interval_over="tasks"))
    return pd.concat(rows, ignore_index=True)


def build_substitutes(dictionary: Dictionary, sample: ActivationPair, rank: int, name: str) -> dict[str, Substitute]:
    """A dictionary and its controls, estimated on a sample: PCA of a rank, the mean, and zero."""
    mean = sample[1].mean(0)
    axes = torch.linalg.eigh((sample[1] - mean).double().T.cov()).eigenvectors[:, -rank:].T.to(mean)
    return {
        name: lambda x, y: dictionary(x),
        "pca": lambda x, y: mean + (y - mean) @ axes.T @ axes,
        "mean": lambda x, y: mean.expand_as(y),
        "zero": lambda x, y: torch.zeros_like(y),
    }


@contextmanager
def spliced(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    replacements: Sequence[tuple[DictionarySite, Substitute]],
) -> Iterator[None]:
    """Splice substitutes into the model at their sites; activations at special tokens stay as they are."""
    inputs: dict[Any, Tensor] = {}

    def replace_output(site: DictionarySite, substitute: Substitute) -> Callable[[Tensor], Tensor]:
        def replace(output: Tensor) -> Tensor:
            replacement = substitute(inputs[site] if site.reads_input else output, output)
            return torch.where(special_tokens_mask(tokenizer, inputs["ids"])[..., None], output, replacement)

        return replace

    with ExitStack() as stack:
        embedding = get_anatomy(model).embeddings[0]
        stack.enter_context(patch(embedding, lambda x: inputs.__setitem__("ids", x), inputs=True))
        for site, substitute in replacements:
            if site.reads_input:
                save_input = lambda x, site=site: inputs.__setitem__(site, x)  # noqa: E731
                stack.enter_context(patch(site.input_module, save_input, inputs=True))
            stack.enter_context(patch(site.output_module, replace_output(site, substitute)))
        yield


def evaluate_on_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]],
    site: str, substitutes: list[dict[str, Substitute]],
    *, splice: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Sums over each document from which the metrics are computed, without special tokens.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        sequences: token ids of documents on which no dictionary was trained.
        site: site as in the config.
        substitutes: for each layer the substitutes by name.
        splice: run the model with each substitute spliced in; if not, losses and KL are missing.

    Returns:
        One row per document, layer and substitute: number of ``tokens``, their squared ``error``, ``variance`` around
        the overall mean, ``cosine`` similarity and ``length`` (of the reconstruction over that of the activation);
        number of ``predicted`` next tokens, their ``loss`` and that of the ``clean`` model, in nats, and ``kl`` from it.
    """
    sites, rows = dictionary_sites(get_anatomy(model), site), []
    means = _means(model, tokenizer, sequences, site)
    device, first_document = next(model.parameters()).device, 0
    for ids, mask in token_batches(sequences, 4096, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
        clean = _log_probs(model, ids, mask) if splice else None
        missing = dict.fromkeys(("predicted", "loss", "clean", "kl"), torch.full(mask.shape, torch.nan))
        for layer, (x, y) in enumerate(read_activations(model, ids, mask, site)):
            for name, substitute in substitutes[layer].items():
                reconstruction = substitute(x, y)
                sums = {
                    "tokens": keep,
                    "error": keep * (reconstruction - y).square().sum(-1),
                    "variance": keep * (y - means[layer]).square().sum(-1),
                    "cosine": keep * torch.cosine_similarity(reconstruction, y, dim=-1),
                    "length": keep * reconstruction.norm(dim=-1) / y.norm(dim=-1),
                }
                if splice:
                    with spliced(model, tokenizer, [(sites[layer], substitute)]):
                        sums |= _prediction_losses(clean, _log_probs(model, ids, mask), ids, mask)
                rows.append(_document_sums(missing | sums, layer, name, first_document))
        if splice and len(substitutes) > 1:
            for name in substitutes[0]:
                replacements = [(sites[layer], by_name[name]) for layer, by_name in enumerate(substitutes)]
                with spliced(model, tokenizer, replacements):
                    sums = _prediction_losses(clean, _log_probs(model, ids, mask), ids, mask)
                rows.append(_document_sums(sums, "all", name, first_document))
        first_document += len(ids)
    return pd.concat(rows, ignore_index=True)


def count_active_features(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    site: str,
    dictionaries: list[Dictionary],
) -> tuple[pd.DataFrame, list[Tensor]]:
    """Active features and tokens of each document, and for each layer the number of activations of each feature."""
    rows, counts = [], [torch.zeros(dictionary.d_sae) for dictionary in dictionaries]
    device, first_document = next(model.parameters()).device, 0
    for ids, mask in token_batches(sequences, 8192, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
        for layer, (x, _) in enumerate(read_activations(model, ids, mask, site)):
            active = (dictionaries[layer].encode(x) > 0) & keep[..., None]
            counts[layer] += active.sum((0, 1)).cpu()
            sums = {"tokens": keep, "active": active.sum(-1)}
            rows.append(_document_sums(sums, layer, "dictionary", first_document))
        first_document += len(ids)
    return pd.concat(rows, ignore_index=True), counts


def forward_probes(facts: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """The forward probes of facts in the training data, with the facts' ``relation``, ``value`` and ``panel``."""
    seen_facts = facts.loc[facts["seen"], ["fact_id", "relation", "value", "panel"]]
    return probes[probes["kind"] == "forward"].merge(seen_facts, on="fact_id")


def activations_before_values(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], site: str
) -> list[ActivationPair]:
    """Input and target of the dictionary of each layer at the last token of each prompt, where a value should follow."""
    sequences = tokenizer(list(prompts))["input_ids"]
    device = next(model.parameters()).device
    batches: list[list[ActivationPair]] = []
    for ids, mask in token_batches(sequences, 8192, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        last = torch.arange(len(ids), device=device), mask.sum(1) - 1
        batches.append([(x[last], y[last]) for x, y in read_activations(model, ids, mask, site)])
    return [
        (torch.cat([batch[layer][0] for batch in batches]), torch.cat([batch[layer][1] for batch in batches]))
        for layer in range(len(batches[0]))
    ]


def summarise_quality(
    text: pd.DataFrame, features: pd.DataFrame, active_counts: list[Tensor], facts: pd.DataFrame, *, resamples: int
) -> pd.DataFrame:
    """Metrics with intervals over documents or facts: ``layer, architecture, metric, n, estimate, ci_low, …``."""
    zero = text[text["name"] == "zero"].set_index(["layer", "document"])
    mean = text[text["name"] == "mean"].set_index(["layer", "document"])
    rows = []
    for (layer, name), group in text.groupby(["layer", "name"], sort=False):
        index = pd.MultiIndex.from_frame(group[["layer", "document"]])
        ablations = (zero["loss"], mean["loss"], zero["kl"])
        zero_loss, mean_loss, zero_kl = (column.reindex(index).to_numpy() for column in ablations)
        sums = {column: group[column].to_numpy() for column in group.columns if column not in ("layer", "name")}
        ratios = {
            "explained_variance": (sums["variance"] - sums["error"], sums["variance"]),
            "mse": (sums["error"], sums["tokens"]),
            "cossim": (sums["cosine"], sums["tokens"]),
            "l2_ratio": (sums["length"], sums["tokens"]),
            "ce_loss_with_sae": (sums["loss"], sums["predicted"]),
            "ce_loss_without_sae": (sums["clean"], sums["predicted"]),
            "ce_loss_with_ablation": (zero_loss, sums["predicted"]),
            "ce_loss_score": (zero_loss - sums["loss"], zero_loss - sums["clean"]),
            "ce_loss_score_mean_ablation": (mean_loss - sums["loss"], mean_loss - sums["clean"]),
            "kl_div_with_sae": (sums["kl"], sums["predicted"]),
            "kl_div_score": (zero_kl - sums["kl"], zero_kl),
        }
        keys = {"layer": layer, "architecture": name}
        rows.append(_ratio_rows(keys, ratios, sums["document"], "documents", resamples))
    architecture = next(iter(text["name"]))
    for layer, group in features.groupby("layer", sort=False):
        ratios = {"l0": (group["active"].to_numpy(), group["tokens"].to_numpy())}
        keys = {"layer": layer, "architecture": architecture}
        rows.append(_ratio_rows(keys, ratios, group["document"].to_numpy(), "documents", resamples))
        alive = float((active_counts[layer] > 0).float().mean())
        rows.append(pd.DataFrame([keys | {"metric": "frac_alive", "n": len(active_counts[layer]), "estimate": alive}]))
    for (layer, name), group in facts.groupby(["layer", "name"], sort=False):
        explained = (group["variance"] - group["error"]).to_numpy()
        ratios = {
            "explained_variance_before_value": (explained, group["variance"].to_numpy()),
            "recall": (group["recalled"].to_numpy(), np.ones(len(group))),
            "recall_preserved": (group["recalled"].to_numpy(), group["clean"].to_numpy()),
        }
        keys = {"layer": layer, "architecture": name}
        rows.append(_ratio_rows(keys, ratios, group["subject"].to_numpy(), "facts", resamples))
    return pd.concat(rows, ignore_index=True)


def evaluate_on_facts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probes: pd.DataFrame,
    site: str,
    substitutes: list[dict[str, Substitute]],
    *,
    splice: bool = True,
) -> pd.DataFrame:
    """Reconstruction before values, and recall with each substitute spliced in.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        probes: forward probes of facts in the training data.
        site: site as in the config.
        substitutes: for each layer the substitutes by name.
        splice: run the model with each substitute spliced in; if not, recall is missing.

    Returns:
        One row per layer, substitute and probe: ``subject``, ``error`` and ``variance`` at the position before the
        value, whether the value's first token is ``recalled`` with the substitute, and whether the ``clean`` model
        recalls it.
    """
    sites = dictionary_sites(get_anatomy(model), site)
    missing = np.full(len(probes), np.nan)

    def recall() -> np.ndarray:
        if not splice:
            return missing
        return score_probes(model, tokenizer, probes)["first_token_correct"].fillna(False).to_numpy(dtype=float)

    clean = recall()
    subjects, rows = probes["fact_id"].str.split(".").str[0].to_numpy(), []

    def spliced_recall(replacements: list[tuple[DictionarySite, Substitute]]) -> np.ndarray:
        with spliced(model, tokenizer, replacements):
            return recall()

    for layer, (x, y) in enumerate(activations_before_values(model, tokenizer, probes["prompt"].tolist(), site)):
        variance = (y - y.mean(0)).square().sum(-1).cpu().numpy()
        for name, substitute in substitutes[layer].items():
            error = (substitute(x, y) - y).square().sum(-1).cpu().numpy()
            recalled = spliced_recall([(sites[layer], substitute)])
            rows.append(_fact_rows(layer, name, subjects, error, variance, recalled, clean))
    if splice and len(substitutes) > 1:
        for name in substitutes[0]:
            replacements = [(sites[layer], by_name[name]) for layer, by_name in enumerate(substitutes)]
            recalled = spliced_recall(replacements)
            rows.append(_fact_rows("all", name, subjects, missing, missing, recalled, clean))
    return pd.concat(rows, ignore_index=True)


def _fact_rows(
    layer: int | str, name: str, subjects: Any, error: Any, variance: Any, recalled: Any, clean: Any
) -> pd.DataFrame:
    columns = {"subject": subjects, "error": error, "variance": variance, "recalled": recalled, "clean": clean}
    return pd.DataFrame({"layer": layer, "name": name, **columns})


def _ratio_rows(keys: dict, ratios: dict[str, tuple], clusters: np.ndarray, over: str, resamples: int) -> pd.DataFrame:
    numerators, denominators = (
        np.stack([np.asarray(ratio[side], dtype=float) for ratio in ratios.values()], 1) for side in (0, 1)
    )
    interval = stats.cluster_bootstrap_ratio(numerators, denominators, clusters, resamples=resamples)
    return stats.summary_rows(keys, list(ratios), interval, interval_over=over)


def _means(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]], site: str
) -> list[Tensor]:
    sums: list[Any] = []
    count, device = 0, next(model.parameters()).device
    for ids, mask in token_batches(sequences, 8192, tokenizer.pad_token_id or 0):
        ids, mask = ids.to(device), mask.to(device)
        keep = mask.bool() & ~special_tokens_mask(tokenizer, ids)
        batch_sums = [y[keep].sum(0) for _, y in read_activations(model, ids, mask, site)]
        sums = [a + b for a, b in zip(sums, batch_sums, strict=True)] if sums else batch_sums
        count += int(keep.sum())
    return [total / count for total in sums]


def _log_probs(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)


def _prediction_losses(clean: Tensor, log_probs: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Next-token losses, and KL from the clean model, (batch, position), 0 where no token is predicted."""
    predicted = mask[:, 1:].bool()
    loss = -log_probs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    clean_loss = -clean[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    kl = (clean.exp() * (clean - log_probs)).sum(-1)[:, :-1]
    return {
        "predicted": predicted,
        "loss": predicted * loss,
        "clean": predicted * clean_loss,
        "kl": predicted * kl,
    }


def _document_sums(sums: dict[str, Tensor], layer: int | str, name: str, first_document: int) -> pd.DataFrame:
    columns = {key: value.double().sum(1).cpu().numpy() for key, value in sums.items()}
    documents = range(first_document, first_document + len(next(iter(columns.values()))))
    return pd.DataFrame({"layer": layer, "name": name, "document": documents, **columns})
