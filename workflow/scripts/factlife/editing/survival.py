"""Whether edits survive: fine-tune the edited model and the unedited one alike, and ask both what they still say."""

from __future__ import annotations

import copy
import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

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


def finetune_and_evaluate(
    model: Any,
    tokenizer: Any,
    deltas: Deltas,
    probes: pd.DataFrame,
    documents: pd.DataFrame,
    settings: EditSurvival,
    *,
    world: World,
    batch_tokens: int = 8192,
) -> pd.DataFrame:
    """Follow edits, facts that the model knew anyway, and the edited facts' old values in the unedited model.

    Args:
        model: unedited; its weights have the same bits when this returns.
        tokenizer: its tokenizer.
        deltas: what an editor changed.
        probes: of the edits' requests: those of ``efficacy`` are followed, those of ``recall`` give the controls.
        documents: a tokenized corpus, columns ``input_ids, entity_ids, fact_ids``.
        settings: how models are fine-tuned.
        world: tells people from all else.
        batch_tokens: tokens in a batch of probes; no answer depends on it.

    Returns:
        One row per way of fine-tuning, step and fact: ``finetuning, data, trained_layers, step, group, relearning_step, fact_id,
        correct, reverted, update_cosine``. Groups: ``edits`` (the new value, in the edited model), ``control`` (as many facts of people
        without an edit, in the same model, each the one whose margin before fine-tuning is nearest to an edit's),
        ``unedited`` (the edits' old values, in the unedited model) and ``unedited_control`` (the controls there).
        ``correct`` is by argmax; ``reverted``, of edits, that the old value is; ``update_cosine``, of edits, see ``cosine``.

        Edits that the last step left wrong are taught again, every other one of them, by full-batch steps of the same
        fine-tuning on their prompts; the steps are counted in ``relearning_step``, which is 0 in all other rows. Groups:
        ``retaught`` and ``not_retaught`` in the edited model, ``unedited_taught`` and ``unedited_not_taught`` for the same facts in
        the unedited model that was fine-tuned alike and never held them.
    """
    edits = probes[probes["metric"] == "efficacy"].reset_index(drop=True)
    subjects = {fact.split(".")[0] for fact in edits["fact_id"]}
    others = probes[(probes["metric"] == "recall") & ~probes["fact_id"].str.split(".").str[0].isin(subjects)]
    with apply_deltas(model, deltas):
        edited = copy.deepcopy(model)
    control = _match_controls(edited, tokenizer, edits, others.reset_index(drop=True), batch_tokens)
    old = edits.assign(target=edits["alternative"])
    layers = _layers(model, deltas)
    parts: list[pd.DataFrame] = []
    ways = itertools.product(settings.data, settings.finetuning, settings.trained_layers)
    for data, finetuning, trained in ways:
        read, keys = select_documents(documents, data, subjects, world), {"finetuning": finetuning, "data": data}

        def look(
            tuned: Any, groups: dict[str, pd.DataFrame], step: int, relearning: int = 0,
            keys: dict[str, Any] = keys | {"trained_layers": trained},
        ) -> dict[str, pd.Series]:  # fmt: skip
            found = {name: _is_correct(tuned, tokenizer, asked, batch_tokens) for name, asked in groups.items()}
            for name, correct in found.items():
                rows = pd.DataFrame({"fact_id": groups[name]["fact_id"], "correct": correct})
                rows["reverted"] = pd.Series(pd.NA, rows.index, dtype="boolean")
                rows["update_cosine"] = np.nan
                if name == "edits":
                    rows["reverted"] = _is_correct(tuned, tokenizer, old, batch_tokens)
                    rows["update_cosine"] = update_cosine(edited, tuned, deltas)
                parts.append(rows.assign(**keys, step=step, group=name, relearning_step=relearning))
            return found

        last = {}
        for start, groups in (
            ("edited", {"edits": edits, "control": control}),
            ("unedited", {"unedited": old, "unedited_control": control}),
        ):
            begun = edited if start == "edited" else model
            for step, tuned in finetune(begun, tokenizer, read, settings, finetuning, layers[trained]):
                found = look(tuned, groups, step)
                if start == "edited":
                    wrong = edits[~found["edits"].fillna(False).to_numpy(bool)]
            last[start] = tuned
        halves = [wrong[half::2].reset_index(drop=True) for half in (0, 1)]
        if not settings.relearning_steps or halves[1].empty:
            continue
        for start, names in (
            ("edited", ("retaught", "not_retaught")),
            ("unedited", ("unedited_taught", "unedited_not_taught")),
        ):
            for again, tuned in relearn(last[start], tokenizer, halves[0], settings, finetuning):
                look(tuned, dict(zip(names, halves, strict=True)), max(settings.steps), again)
    table = pd.concat(parts, ignore_index=True)
    first = ["finetuning", "data", "trained_layers", "step", "group", "relearning_step"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def relearn(
    model: Any, tokenizer: Any, edits: pd.DataFrame, settings: EditSurvival, how: str
) -> Iterator[tuple[int, Any]]:
    """The model after each of the asked numbers of steps of Adam on -log p(new value), on all of some edits at once.

    Args:
        model: of ``fine_tune``; what that trained is trained on, in place.
        tokenizer: its tokenizer.
        edits: probes of ``efficacy``.
        settings: rates, and steps of ``relearning``.
        how: ``full``, ``lora`` or ``dora``.
    """
    answers = AnswerTokens(tokenizer)
    wanted = [answers.encode_after(row.prompt, row.target) for row in edits.itertuples()]
    texts = [[*tokenizer(row.prompt)["input_ids"], *ids] for row, ids in zip(edits.itertuples(), wanted, strict=True)]
    batch = PaddingCollator(tokenizer.pad_token_id or 0)(texts)
    for number, (text, ids) in enumerate(zip(texts, wanted, strict=True)):
        batch["labels"][number, : len(text) - len(ids)] = -100
    optimizer = _adam(model, settings, how)
    for step in range(max(settings.relearning_steps) + 1):
        if step == 0 or step in settings.relearning_steps:
            yield step, model
        loss = model(**{key: value.to(model.device) for key, value in batch.items()}, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def select_documents(documents: pd.DataFrame, kind: str, subjects: set[str], world: World) -> list[Sequence[int]]:
    """Token ids of the documents of one kind of data.

    Raises:
        EditError: there is none.
    """
    kinds = world.entities.set_index("entity_id")["kind"]
    people = set(kinds.index[kinds.isin(kinds.reindex(list(subjects)).dropna().unique())])
    mentioned = documents["entity_ids"].map(set)
    about_edited = mentioned.map(lambda found: bool(found & subjects))
    about_people = mentioned.map(lambda found: bool(found & people))
    chosen = {
        "edited_subjects": about_edited,
        "related": about_people & ~about_edited,
        "unrelated": ~about_people & ~about_edited,
    }[kind]
    if not chosen.any():
        raise EditError(f"the corpus has no documents for fine-tuning on `{kind}` data; take it out of `survival.data`")
    return documents["input_ids"][chosen].tolist()


def finetune(
    model: Any,
    tokenizer: Any,
    sequences: Sequence[Sequence[int]],
    settings: EditSurvival,
    how: str,
    layers: Sequence[int],
) -> Iterator[tuple[int, Any]]:
    """A copy of a model at step 0 and after each of the steps that are asked for.

    Adam at a constant rate on the mean loss per token; the order of documents depends on the seed alone.

    Args:
        model: stays as it is.
        tokenizer: for padding.
        sequences: token ids of documents, read in random order and from the beginning again when they end.
        settings: steps, rates, rank, seed.
        how: ``full``, ``lora`` or ``dora``.
        layers: blocks that are trained; norms, embeddings and unembedding stay.
    """
    model = copy.deepcopy(model).requires_grad_(False)
    linears = _linears(model, layers)
    if how == "full":
        for layer in layers:
            get_anatomy(model).blocks[layer].module.requires_grad_(True)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            adapter = LoraConfig(
                r=settings.r, lora_alpha=2 * settings.r, use_dora=how == "dora",
                target_modules=[name for name, _ in linears],
                fan_in_fan_out=any(isinstance(part, Conv1D) for _, part in linears),
            )  # fmt: skip
            model = inject_adapter_in_model(adapter, model)
    optimizer = _adam(model, settings, how)
    rng, queue, collate = (
        random.Random(f"fine-tuning {settings.seed}"),
        [],
        PaddingCollator(tokenizer.pad_token_id or 0),
    )
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
            logging.info("%s, step %d: loss %.3f", how, step, loss.item())
            yield step, model


@torch.no_grad()
def update_cosine(edited: Any, tuned: Any, deltas: Deltas) -> float:
    """Of what fine-tuning changed in the edited weights with the edit: below 0, it takes the edit back.

    Args:
        edited: the model with its edits.
        tuned: the same after fine-tuning, adapters included.
        deltas: the edits.

    Returns:
        The cosine over all edited weights as one vector; NaN where none of them changed.
    """
    before, inner, moved = dict(edited.named_parameters()), 0.0, 0.0
    for name, delta in deltas.items():
        part = tuned.get_submodule(name.removesuffix(".weight"))
        if isinstance(part, LoraLayer):
            part = copy.deepcopy(part)
            part.merge()
            part = part.get_base_layer()
        change = part.weight.double() - before[name].double()
        inner += (change * delta.double()).sum().item()
        moved += change.square().sum().item()
    length = sum(delta.double().square().sum().item() for delta in deltas.values())
    return inner / (moved * length) ** 0.5 if moved and length else float("nan")


def _adam(model: Any, settings: EditSurvival, how: str) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trained, lr=settings.full_learning_rate if how == "full" else settings.learning_rate)


def _linears(model: Any, layers: Sequence[int]) -> list[tuple[str, nn.Module]]:
    """Names and modules of the linear maps in some blocks."""
    blocks = [get_anatomy(model).blocks[layer].module for layer in layers]
    inside = {id(part) for block in blocks for part in block.modules() if isinstance(part, (nn.Linear, Conv1D))}
    return [(name, part) for name, part in model.named_modules() if id(part) in inside]


def _layers(model: Any, deltas: Deltas) -> dict[str, list[int]]:
    parameters = dict(model.named_parameters())
    changed = {id(parameters[name]) for name in deltas}
    blocks = get_anatomy(model).blocks
    edited = [n for n, block in enumerate(blocks) if any(id(one) in changed for one in block.module.parameters())]
    return {
        "all": list(range(len(blocks))),
        "edited": edited,
        "unedited": [layer for layer in range(len(blocks)) if layer not in edited],
    }


def _is_correct(model: Any, tokenizer: Any, probes: pd.DataFrame, batch_tokens: int) -> pd.Series:
    asked = pd.DataFrame({"prompt": probes["prompt"], "target": probes["target"], "candidates": [[]] * len(probes)})
    return score_probes(model, tokenizer, asked, batch_tokens=batch_tokens)["exact_match"]


@torch.no_grad()
def margins(model: Any, tokenizer: Any, probes: pd.DataFrame, *, batch_tokens: int = 8192) -> np.ndarray:
    """By how many nats the wanted value leads, (probe,): the least over its tokens of its logit less the best other one.

    Negative where it is not what the model says, by argmax.
    """
    answers, found = AnswerTokens(tokenizer), np.full(len(probes), -np.inf)
    wanted = [answers.encode_after(row.prompt, row.target) for row in probes.itertuples()]
    texts = [[*tokenizer(row.prompt)["input_ids"], *ids] for row, ids in zip(probes.itertuples(), wanted, strict=True)]
    order = sorted((number for number, ids in enumerate(wanted) if ids), key=lambda number: len(texts[number]))
    while order:
        size = max(1, batch_tokens // len(texts[order[-1]]))
        batch, order = order[-size:], order[:-size]
        ids = PaddingCollator(tokenizer.pad_token_id or 0)([texts[number] for number in batch])
        logits = model(
            ids["input_ids"].to(model.device), ids["attention_mask"].to(model.device), use_cache=False
        ).logits
        for row, number in enumerate(batch):
            own = torch.tensor(wanted[number], device=logits.device)[:, None]
            end = len(texts[number]) - 1
            here = logits[row, end - len(own) : end].float()
            others = here.scatter(1, own, -torch.inf).amax(1)
            found[number] = float((here.gather(1, own)[:, 0] - others).min())
    return found


def _match_controls(
    model: Any, tokenizer: Any, edits: pd.DataFrame, others: pd.DataFrame, batch_tokens: int
) -> pd.DataFrame:
    """For each edit, in the order of their margins, the unused known fact whose margin is nearest."""
    led = margins(model, tokenizer, others, batch_tokens=batch_tokens)
    others, led = others[led > 0].reset_index(drop=True), led[led > 0]
    own = margins(model, tokenizer, edits, batch_tokens=batch_tokens)
    free, taken = np.ones(len(others), dtype=bool), []
    for margin in np.sort(own)[: len(others)]:
        nearest = int(np.where(free, np.abs(led - margin), np.inf).argmin())
        free[nearest] = False
        taken.append(nearest)
    logging.info("margins: edits %.2f on average, controls %.2f", own.mean(), led[taken].mean() if taken else np.nan)
    return others.iloc[taken].reset_index(drop=True)


def survival_probes(probes: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The probes about edits that an editor wrote, and of recall of what it did not write."""
    written = set(verdicts["edit_id"][verdicts["phase"] == "end"]) - {""}
    own = probes["edit_id"].isin(written)
    return probes[own | ((probes["edit_id"] == "") & ~probes["fact_id"].isin(written))].reset_index(drop=True)
