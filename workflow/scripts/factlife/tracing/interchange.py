"""Interchange interventions: whose fact is told when one place holds somebody else's residual stream."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from factlife.models.anatomy import capture, get_anatomy, patch
from factlife.recall.score import AnswerTokens
from factlife.world import World

ROLES = ("subject_last", "subject", "last")


def interchange_accuracy(model: Any, tokenizer: Any, world: World, *, pairs: int = 40) -> pd.DataFrame:
    """Share of answers that switch to another subject's when one place takes that subject's residual stream.

    Subjects are paired who are asked with the same template, whose prompts are equally long, whose first answer
    tokens differ, and who are both answered rightly (Geiger et al. 2021, interchange interventions).

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        world: its trained templates in which the subject comes before the value's prompt are used.
        pairs: subjects for each template of each relation, at most.

    Returns:
        One row per ``token_role`` (last subject token, all subject tokens, last prompt token) and ``layer``: ``n``
        pairs and ``accuracy``, the fraction that switch.
    """
    blocks = {layer: block.module for layer, block in enumerate(get_anatomy(model).blocks)}
    switched: Counter = Counter()
    total = 0
    for ids, answers, roles in _groups(tokenizer, world, pairs):
        other = torch.arange(len(ids)).roll(1)
        with torch.inference_mode(), capture(blocks) as residual:
            said = model(input_ids=ids).logits[:, -1].argmax(-1)
        usable = (said == answers) & (said == answers)[other] & (answers != answers[other])
        total += int(usable.sum())
        for layer, block in blocks.items():
            for role, places in roles.items():

                def swap(hidden: Tensor, donor: Tensor = residual[layer][other], places: slice = places) -> Tensor:
                    hidden = hidden.clone()
                    hidden[:, places] = donor[:, places]
                    return hidden

                with torch.inference_mode(), patch(block, swap):
                    now = model(input_ids=ids).logits[:, -1].argmax(-1)
                switched[role, layer] += int(((now == answers[other]) & usable).sum())
    rows = [(role, layer, total, switched[role, layer] / max(1, total)) for role in ROLES for layer in blocks]
    return pd.DataFrame(rows, columns=["token_role", "layer", "n", "accuracy"])


def _groups(tokenizer: Any, world: World, pairs: int) -> Any:
    """Prompts of equal length and template: ids, first answer tokens, and the places of each token role."""
    answers = AnswerTokens(tokenizer)
    probes = world.probes[world.probes["kind"] == "forward"].merge(world.facts[["fact_id", "entity_id", "relation"]])
    probes = probes.merge(world.entities[["entity_id", "name", "kind"]], on="entity_id", suffixes=("", "_of_entity"))
    starts = [prompt.startswith(name) for prompt, name in zip(probes["prompt"], probes["name"], strict=True)]
    for _, rows in probes[starts].groupby(["relation", "template"], sort=True):
        encoded = tokenizer(rows["prompt"].tolist())["input_ids"]
        names = [len(tokenizer(name)["input_ids"]) for name in rows["name"]]
        first = len(tokenizer("")["input_ids"])
        shape = Counter(zip(map(len, encoded), names, strict=True)).most_common(1)[0][0]
        kept = [
            (ids, answers.encode(target)[0])
            for ids, name, target in zip(encoded, names, rows["target"], strict=True)
            if (len(ids), name) == shape
        ][:pairs]
        if len(kept) > 1:
            end = shape[1]
            roles = {"subject_last": slice(end - 1, end), "subject": slice(first, end), "last": slice(-1, None)}
            yield torch.tensor([ids for ids, _ in kept]), torch.tensor([answer for _, answer in kept]), roles
