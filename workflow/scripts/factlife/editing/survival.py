"""Whether edits survive: fine-tune the edited model and the unedited one alike, and ask both what they still say."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from factlife.config.editing import Survival
from factlife.editing.editable import Deltas, applied
from factlife.editing.requests import EditError
from factlife.models.anatomy import anatomy
from factlife.models.train import Collator
from factlife.recall.score import score
from factlife.world import World


def survive(
    model: Any,
    tokenizer: Any,
    deltas: Deltas,
    probes: pd.DataFrame,
    documents: pd.DataFrame,
    settings: Survival,
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
        One row per way of fine-tuning, step and fact: ``finetuning, data, trained_layers, step, group, fact_id, correct,
        reverted``. Groups: ``edits`` (the new value, in the edited model), ``control`` (as many facts of people without an
        edit, in the same model, each the one whose loss before fine-tuning is nearest to an edit's) and ``unedited`` (the
        edits' old values, in the unedited model). ``correct`` is by argmax; ``reverted``, of edits, that the old value is.
    """
    edits = probes[probes["metric"] == "efficacy"].reset_index(drop=True)
    subjects = {fact.split(".")[0] for fact in edits["about"]}
    others = probes[(probes["metric"] == "recall") & ~probes["about"].str.split(".").str[0].isin(subjects)]
    with applied(model, deltas):
        edited = copy.deepcopy(model)
    control = _matched(edited, tokenizer, edits, others.reset_index(drop=True), batch_tokens)
    old = edits.assign(wanted=edits["other"])
    arms = [(edited, {"edits": edits, "reverted": old, "control": control}), (model, {"unedited": old})]
    layers = _layers(model, deltas)
    parts = []
    for kind in settings.data:
        read = select(documents, kind, subjects, world)
        for finetuning in settings.finetunings:
            for trained in settings.trained_layers:
                for start, groups in arms:
                    for step, tuned in fine_tune(start, tokenizer, read, settings, finetuning, layers[trained]):
                        found = {name: _right(tuned, tokenizer, asked, batch_tokens) for name, asked in groups.items()}
                        reverted = found.pop("reverted", None)
                        for name, correct in found.items():
                            rows = pd.DataFrame({"fact_id": groups[name]["about"], "correct": correct})
                            rows["reverted"] = (
                                reverted if name == "edits" else pd.Series(pd.NA, rows.index, dtype="boolean")
                            )
                            keys = {"finetuning": finetuning, "data": kind, "trained_layers": trained, "step": step}
                            parts.append(rows.assign(**keys, group=name))
    table = pd.concat(parts, ignore_index=True)
    first = ["finetuning", "data", "trained_layers", "step", "group"]
    return table[[*first, *(column for column in table.columns if column not in first)]]


def select(documents: pd.DataFrame, kind: str, subjects: set[str], world: World) -> list[Sequence[int]]:
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
        "mentioning": about_edited,
        "related": about_people & ~about_edited,
        "unrelated": ~about_people & ~about_edited,
    }[kind]
    if not chosen.any():
        raise EditError(f"the corpus has no documents for fine-tuning on `{kind}` data; take it out of `survival.data`")
    return documents["input_ids"][chosen].tolist()


def fine_tune(
    model: Any, tokenizer: Any, sequences: Sequence[Sequence[int]], settings: Survival, how: str, layers: Sequence[int]
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
            anatomy(model).blocks[layer].module.requires_grad_(True)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            adapter = LoraConfig(
                r=settings.rank, lora_alpha=2 * settings.rank, use_dora=how == "dora",
                target_modules=[name for name, _ in linears],
                fan_in_fan_out=any(isinstance(part, Conv1D) for _, part in linears),
            )  # fmt: skip
            model = inject_adapter_in_model(adapter, model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=settings.full_rate if how == "full" else settings.rate)
    rng, queue, collate = random.Random(f"fine-tuning {settings.seed}"), [], Collator(tokenizer.pad_token_id or 0)
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


def _linears(model: Any, layers: Sequence[int]) -> list[tuple[str, nn.Module]]:
    """Names and modules of the linear maps in some blocks."""
    blocks = [anatomy(model).blocks[layer].module for layer in layers]
    inside = {id(part) for block in blocks for part in block.modules() if isinstance(part, (nn.Linear, Conv1D))}
    return [(name, part) for name, part in model.named_modules() if id(part) in inside]


def _layers(model: Any, deltas: Deltas) -> dict[str, list[int]]:
    parameters = dict(model.named_parameters())
    changed = {id(parameters[name]) for name in deltas}
    blocks = anatomy(model).blocks
    edited = [n for n, block in enumerate(blocks) if any(id(one) in changed for one in block.module.parameters())]
    return {
        "all": list(range(len(blocks))),
        "edited": edited,
        "others": [layer for layer in range(len(blocks)) if layer not in edited],
    }


def _ask(model: Any, tokenizer: Any, probes: pd.DataFrame, batch_tokens: int) -> pd.DataFrame:
    asked = pd.DataFrame({"prompt": probes["prompt"], "target": probes["wanted"], "candidates": [[]] * len(probes)})
    return score(model, tokenizer, asked, batch_tokens=batch_tokens)


def _right(model: Any, tokenizer: Any, probes: pd.DataFrame, batch_tokens: int) -> pd.Series:
    return _ask(model, tokenizer, probes, batch_tokens)["exact_match"]


def _matched(model: Any, tokenizer: Any, edits: pd.DataFrame, others: pd.DataFrame, batch_tokens: int) -> pd.DataFrame:
    """For each edit, in the order of their losses, the unused other fact whose loss is nearest, of those that are known."""
    found = _ask(model, tokenizer, others, batch_tokens)
    known = found["exact_match"].fillna(False).to_numpy(bool)
    others, losses = others[known].reset_index(drop=True), found["loss_nats"][known].to_numpy(float)
    own = _ask(model, tokenizer, edits, batch_tokens)["loss_nats"].to_numpy(float)
    free, taken = np.ones(len(others), dtype=bool), []
    for loss in np.sort(own)[::-1][: len(others)]:
        nearest = int(np.where(free, np.abs(losses - loss), np.inf).argmin())
        free[nearest] = False
        taken.append(nearest)
    return others.iloc[taken].reset_index(drop=True)


def followed(probes: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """The probes about edits that an editor wrote, and of recall of what it did not write."""
    written = set(verdicts["edit_id"][verdicts["phase"] == "end"]) - {""}
    own = probes["edit_id"].isin(written)
    return probes[own | ((probes["edit_id"] == "") & ~probes["about"].isin(written))].reset_index(drop=True)
