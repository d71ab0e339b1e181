"""Survival of edits: fine-tune the edited and the unedited model in the same way, and evaluate both."""

from __future__ import annotations

import copy
import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from factlife.config.editing import EditSurvival
from factlife.editing.editable import Deltas, apply_deltas
from factlife.editing.requests import EditError
from factlife.models.anatomy import get_anatomy
from factlife.models.train import PaddingCollator
from factlife.recall.score import AnswerTokens, score_probes
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def finetune_and_evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    deltas: Deltas,
    probes: pd.DataFrame,
    documents: pd.DataFrame,
    settings: EditSurvival,
    *,
    world: World,
    batch_tokens: int = 8192,
) -> pd.DataFrame:
    """Evaluate edits, control facts, and the old values of edited facts in the unedited model, before and after fine-tuning.

    Args:
        model: unedited; its weights have the same bits when this returns.
        tokenizer: its tokenizer.
        deltas: the changes of an editor.
        probes: of the edits' requests: ``efficacy`` probes ask for the edits, ``recall`` probes for candidate controls.
        documents: a tokenized corpus, columns ``input_ids, entity_ids, fact_ids``.
        settings: of the fine-tuning.
        world: tells people from other entities.
        batch_tokens: tokens per batch of probes; results do not depend on it.

    Returns:
        One row per kind of fine-tuning, step and fact: ``finetuning, data, trained_layers, step, group, relearning_step,
        fact_id, correct, reverted, update_cosine``. Groups: ``edits`` (the new values, in the edited model), ``control`` (as
        many facts of people without an edit, in the same model, each matched to an edit by its margin before fine-tuning),
        ``unedited`` (the edits' old values, in the unedited model) and ``unedited_control`` (the controls in that model).
        ``correct`` is by argmax; ``reverted``, for edits: the old value is the argmax; ``update_cosine``, for edits: see
        the function of this name.

        Half of the edits that are wrong after the last step are retaught by full-batch steps of the same fine-tuning on
        their prompts, counted in ``relearning_step``, which is 0 in all other rows. Groups: ``retaught`` and ``not_retaught``
        in the edited model, ``unedited_taught`` and ``unedited_not_taught`` for the same facts in the unedited model, which
        was fine-tuned in the same way but never edited.
    """
    edits = probes[probes["metric"] == "efficacy"].reset_index(drop=True)
    subjects = {fact_id.split(".")[0] for fact_id in edits["fact_id"]}
    has_edit = probes["fact_id"].str.split(".").str[0].isin(subjects)
    candidates = probes[(probes["metric"] == "recall") & ~has_edit].reset_index(drop=True)
    with apply_deltas(model, deltas):
        edited = copy.deepcopy(model)
    controls = _match_controls(edited, tokenizer, edits, candidates, batch_tokens)
    old_values = edits.assign(target=edits["alternative"])
    layers = _layers(model, deltas)
    parts: list[pd.DataFrame] = []
    combinations = itertools.product(settings.data, settings.finetuning, settings.trained_layers)
    for data, finetuning, trained_layers in combinations:
        sequences = select_documents(documents, data, subjects, world)
        keys = {"finetuning": finetuning, "data": data}

        def evaluate(
            tuned: Any, groups: dict[str, pd.DataFrame], step: int, relearning_step: int = 0,
            keys: dict[str, Any] = keys | {"trained_layers": trained_layers},
        ) -> dict[str, pd.Series]:  # fmt: skip
            results = {name: _is_correct(tuned, tokenizer, group, batch_tokens) for name, group in groups.items()}
            for name, correct in results.items():
                rows = pd.DataFrame({"fact_id": groups[name]["fact_id"], "correct": correct})
                rows["reverted"] = pd.Series(pd.NA, rows.index, dtype="boolean")
                rows["update_cosine"] = np.nan
                if name == "edits":
                    rows["reverted"] = _is_correct(tuned, tokenizer, old_values, batch_tokens)
                    rows["update_cosine"] = update_cosine(edited, tuned, deltas)
                parts.append(rows.assign(**keys, step=step, group=name, relearning_step=relearning_step))
            return results

        finetuned = {}
        for name, groups in (
            ("edited", {"edits": edits, "control": controls}),
            ("unedited", {"unedited": old_values, "unedited_control": controls}),
        ):
            initial = edited if name == "edited" else model
            for step, tuned in finetune(initial, tokenizer, sequences, settings, finetuning, layers[trained_layers]):
                results = evaluate(tuned, groups, step)
                if name == "edited":
                    erased = edits[~results["edits"].fillna(False).to_numpy(bool)]
            finetuned[name] = tuned
        halves = [erased[half::2].reset_index(drop=True) for half in (0, 1)]
        if not settings.relearning_steps or halves[1].empty:
            continue
        for name, group_names in (
            ("edited", ("retaught", "not_retaught")),
            ("unedited", ("unedited_taught", "unedited_not_taught")),
        ):
            for relearning_step, tuned in relearn(finetuned[name], tokenizer, halves[0], settings, finetuning):
                evaluate(tuned, dict(zip(group_names, halves, strict=True)), max(settings.steps), relearning_step)
    table = pd.concat(parts, ignore_index=True)
    first = ["finetuning", "data", "trained_layers", "step", "group", "relearning_step"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def relearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: pd.DataFrame,
    settings: EditSurvival,
    finetuning: str,
) -> Iterator[tuple[int, Any]]:
    """The model after some numbers of Adam steps on -log p(new value), with all given edits in one batch.

    Args:
        model: from ``finetune``; the same parameters are trained further, in place.
        tokenizer: its tokenizer.
        edits: probes of ``efficacy``.
        settings: learning rates and ``relearning_steps``.
        finetuning: ``full``, ``lora`` or ``dora``.
    """
    texts, targets = _tokenize(tokenizer, edits)
    batch = PaddingCollator(tokenizer.pad_token_id or 0)(texts)
    for row, (text, target_ids) in enumerate(zip(texts, targets, strict=True)):
        batch["labels"][row, : len(text) - len(target_ids)] = -100
    optimizer = _adam(model, settings, finetuning)
    for step in range(max(settings.relearning_steps) + 1):
        if step == 0 or step in settings.relearning_steps:
            yield step, model
        loss = model(**{key: value.to(model.device) for key, value in batch.items()}, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def select_documents(documents: pd.DataFrame, data: str, subjects: set[str], world: World) -> list[Sequence[int]]:
    """Token ids of the documents of one kind of data.

    Raises:
        EditError: there is none.
    """
    kinds = world.entities.set_index("entity_id")["kind"]
    people = set(kinds.index[kinds.isin(kinds.reindex(list(subjects)).dropna().unique())])
    entities = documents["entity_ids"].map(set)
    about_edited = entities.map(lambda mentioned: bool(mentioned & subjects))
    about_people = entities.map(lambda mentioned: bool(mentioned & people))
    mask = {
        "edited_subjects": about_edited,
        "related": about_people & ~about_edited,
        "unrelated": ~about_people & ~about_edited,
    }[data]
    if not mask.any():
        raise EditError(f"the corpus has no documents for fine-tuning on `{data}` data; remove it from `survival.data`")
    return documents["input_ids"][mask].tolist()


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    settings: EditSurvival,
    finetuning: str,
    layers: Sequence[int],
) -> Iterator[tuple[int, Any]]:
    """A copy of a model at step 0 and after each of the steps in ``settings``.

    Adam at a constant learning rate on the mean loss per token; the order of documents depends on the seed alone.

    Args:
        model: does not change.
        tokenizer: for padding.
        sequences: token ids of documents, read in random order, in several passes if needed.
        settings: steps, learning rates, rank, seed.
        finetuning: ``full``, ``lora`` or ``dora``.
        layers: blocks to train; final norm, embeddings and unembedding are frozen.
    """
    model = copy.deepcopy(model).requires_grad_(False)
    linear = _linear_maps(model, layers)
    if finetuning == "full":
        for layer in layers:
            get_anatomy(model).blocks[layer].module.requires_grad_(True)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            adapter = LoraConfig(
                r=settings.r, lora_alpha=2 * settings.r, use_dora=finetuning == "dora",
                target_modules=[name for name, _ in linear],
                fan_in_fan_out=any(isinstance(module, Conv1D) for _, module in linear),
            )  # fmt: skip
            model = inject_adapter_in_model(adapter, model)
    optimizer = _adam(model, settings, finetuning)
    rng, collate = random.Random(f"fine-tuning {settings.seed}"), PaddingCollator(tokenizer.pad_token_id or 0)
    queue: list[int] = []
    yield 0, model.eval()
    for step in range(1, max(settings.steps) + 1):
        while len(queue) < settings.batch_size:
            queue += rng.sample(range(len(sequences)), len(sequences))
        batch = collate([sequences[queue.pop(0)] for _ in range(settings.batch_size)])
        loss = model(**{key: value.to(model.device) for key, value in batch.items()}, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in settings.steps:
            logging.info("%s, step %d: loss %.3f", finetuning, step, loss.item())
            yield step, model


@torch.no_grad()
def update_cosine(edited: Any, tuned: Any, deltas: Deltas) -> float:
    """Cosine of the edit with the change that fine-tuning makes to the edited weights; below 0, it undoes the edit.

    Args:
        edited: the model with its edits.
        tuned: the same after fine-tuning, adapters included.
        deltas: the edits.

    Returns:
        The cosine over all edited weights as one vector; NaN if none of them changed.
    """
    parameters, dot_product, update_square = dict(edited.named_parameters()), 0.0, 0.0
    for name, delta in deltas.items():
        module = tuned.get_submodule(name.removesuffix(".weight"))
        if isinstance(module, LoraLayer):
            module = copy.deepcopy(module)
            module.merge()
            module = module.get_base_layer()
        update = module.weight.double() - parameters[name].double()
        dot_product += (update * delta.double()).sum().item()
        update_square += update.square().sum().item()
    edit_square = sum(delta.double().square().sum().item() for delta in deltas.values())
    return dot_product / (update_square * edit_square) ** 0.5 if update_square and edit_square else float("nan")


def _adam(model: PreTrainedModel, settings: EditSurvival, finetuning: str) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(
        trainable, lr=settings.full_learning_rate if finetuning == "full" else settings.learning_rate
    )


def _linear_maps(model: PreTrainedModel, layers: Sequence[int]) -> list[tuple[str, nn.Module]]:
    """Names and modules of the linear maps in some blocks."""
    blocks = [get_anatomy(model).blocks[layer].module for layer in layers]
    linear = {id(part) for block in blocks for part in block.modules() if isinstance(part, (nn.Linear, Conv1D))}
    return [(name, part) for name, part in model.named_modules() if id(part) in linear]


def _layers(model: PreTrainedModel, deltas: Deltas) -> dict[str, list[int]]:
    parameters = dict(model.named_parameters())
    edited_ids = {id(parameters[name]) for name in deltas}
    blocks = get_anatomy(model).blocks
    edited = [
        layer
        for layer, block in enumerate(blocks)
        if any(id(parameter) in edited_ids for parameter in block.module.parameters())
    ]
    return {
        "all": list(range(len(blocks))),
        "edited": edited,
        "unedited": [layer for layer in range(len(blocks)) if layer not in edited],
    }


def _is_correct(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: pd.DataFrame, batch_tokens: int
) -> pd.Series:
    questions = pd.DataFrame({"prompt": probes["prompt"], "target": probes["target"], "candidates": [[]] * len(probes)})
    return score_probes(model, tokenizer, questions, batch_tokens=batch_tokens)["exact_match"]


def _tokenize(tokenizer: PreTrainedTokenizerBase, probes: pd.DataFrame) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of prompts with their targets, and of the targets alone."""
    answers = AnswerTokens(tokenizer)
    targets = [answers.encode_after(probe.prompt, probe.target) for probe in probes.itertuples()]
    texts = [
        [*tokenizer(probe.prompt)["input_ids"], *target_ids]
        for probe, target_ids in zip(probes.itertuples(), targets, strict=True)
    ]
    return texts, targets


@torch.no_grad()
def margins(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: pd.DataFrame, *, batch_tokens: int = 8192
) -> np.ndarray:
    """Margin of each target, (probe,): the minimum over its tokens of its logit minus the best other logit.

    The margin is negative if the target is not the argmax.
    """
    minimum = np.full(len(probes), -np.inf)
    texts, targets = _tokenize(tokenizer, probes)
    order = sorted((i for i, target_ids in enumerate(targets) if target_ids), key=lambda i: len(texts[i]))
    while order:
        size = max(1, batch_tokens // len(texts[order[-1]]))
        batch, order = order[-size:], order[:-size]
        ids = PaddingCollator(tokenizer.pad_token_id or 0)([texts[i] for i in batch])
        logits = model(
            ids["input_ids"].to(model.device), ids["attention_mask"].to(model.device), use_cache=False
        ).logits
        for row, i in enumerate(batch):
            target_ids = torch.tensor(targets[i], device=logits.device)[:, None]
            end = len(texts[i]) - 1
            target_logits = logits[row, end - len(target_ids) : end].float()
            best_other = target_logits.scatter(1, target_ids, -torch.inf).amax(1)
            minimum[i] = float((target_logits.gather(1, target_ids)[:, 0] - best_other).min())
    return minimum


def _match_controls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    edits: pd.DataFrame,
    candidates: pd.DataFrame,
    batch_tokens: int,
) -> pd.DataFrame:
    """For each edit, in the order of their margins, the unused known fact with the nearest margin."""
    candidate_margins = margins(model, tokenizer, candidates, batch_tokens=batch_tokens)
    is_known = candidate_margins > 0
    candidates, candidate_margins = candidates[is_known].reset_index(drop=True), candidate_margins[is_known]
    edit_margins = margins(model, tokenizer, edits, batch_tokens=batch_tokens)
    is_unused, matches = np.ones(len(candidates), dtype=bool), []
    for margin in np.sort(edit_margins)[: len(candidates)]:
        nearest = int(np.where(is_unused, np.abs(candidate_margins - margin), np.inf).argmin())
        is_unused[nearest] = False
        matches.append(nearest)
    mean = candidate_margins[matches].mean() if matches else np.nan
    logging.info("margins: edits %.2f on average, controls %.2f", edit_margins.mean(), mean)
    return candidates.iloc[matches].reset_index(drop=True)


def survival_probes(probes: pd.DataFrame, edits: pd.DataFrame) -> pd.DataFrame:
    """Probes of the edits that an editor wrote, and recall probes of facts that it did not edit."""
    edit_ids = set(edits["edit_id"][edits["phase"] == "end"]) - {""}
    is_own = probes["edit_id"].isin(edit_ids)
    is_recall = (probes["edit_id"] == "") & ~probes["fact_id"].isin(edit_ids)
    return probes[is_own | is_recall].reset_index(drop=True)
