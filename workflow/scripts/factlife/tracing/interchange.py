"""Interchange interventions: does the answer switch when another subject's residual stream is patched in?"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from factlife.models.anatomy import capture, get_anatomy, patch
from factlife.recall.score import AnswerTokens
from factlife.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROLES = ("subject_last", "subject", "last")


def interchange_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, pairs: int = 40
) -> pd.DataFrame:
    """Fraction of answers that switch to another subject's when that subject's residual stream is patched in.

    Two subjects form a pair if their prompts share a template and a length, their first answer tokens differ, and the
    model answers both correctly (Geiger et al. 2021, interchange interventions).

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        world: source of the prompts; only forward probes that begin with the subject are used.
        pairs: maximum number of subjects per template and relation.

    Returns:
        One row per ``token_role`` (last subject token, all subject tokens, last prompt token) and ``layer``: ``n``
        pairs and ``accuracy``, the fraction that switch.
    """
    blocks = {layer: block.module for layer, block in enumerate(get_anatomy(model).blocks)}
    switched: Counter = Counter()
    n_usable = 0
    for ids, answers, roles in _groups(tokenizer, world, pairs):
        donor_rows = torch.arange(len(ids)).roll(1)
        with torch.inference_mode(), capture(blocks) as residual:
            predictions = model(input_ids=ids).logits[:, -1].argmax(-1)
        usable = (predictions == answers) & (predictions == answers)[donor_rows] & (answers != answers[donor_rows])
        n_usable += int(usable.sum())
        for layer, block in blocks.items():
            for role, positions in roles.items():

                def swap(
                    hidden: Tensor, donor: Tensor = residual[layer][donor_rows], positions: slice = positions
                ) -> Tensor:
                    hidden = hidden.clone()
                    hidden[:, positions] = donor[:, positions]
                    return hidden

                with torch.inference_mode(), patch(block, swap):
                    patched_predictions = model(input_ids=ids).logits[:, -1].argmax(-1)
                switched[role, layer] += int(((patched_predictions == answers[donor_rows]) & usable).sum())
    rows = [(role, layer, n_usable, switched[role, layer] / max(1, n_usable)) for role in ROLES for layer in blocks]
    return pd.DataFrame(rows, columns=["token_role", "layer", "n", "accuracy"])


def _groups(tokenizer: PreTrainedTokenizerBase, world: World, pairs: int) -> Any:
    """Prompts of equal length and template: ids, first answer tokens, and the positions of each token role."""
    answers = AnswerTokens(tokenizer)
    probes = world.probes[world.probes["kind"] == "forward"].merge(world.facts[["fact_id", "entity_id", "relation"]])
    probes = probes.merge(world.entities[["entity_id", "name", "kind"]], on="entity_id", suffixes=("", "_of_entity"))
    starts_with_name = [prompt.startswith(name) for prompt, name in zip(probes["prompt"], probes["name"], strict=True)]
    for _, rows in probes[starts_with_name].groupby(["relation", "template"], sort=True):
        encoded = tokenizer(rows["prompt"].tolist())["input_ids"]
        name_lengths = [len(tokenizer(name)["input_ids"]) for name in rows["name"]]
        first = len(tokenizer("")["input_ids"])
        shape = Counter(zip(map(len, encoded), name_lengths, strict=True)).most_common(1)[0][0]
        examples = [
            (ids, answers.encode(target)[0])
            for ids, name_length, target in zip(encoded, name_lengths, rows["target"], strict=True)
            if (len(ids), name_length) == shape
        ][:pairs]
        if len(examples) > 1:
            end = shape[1]
            roles = {"subject_last": slice(end - 1, end), "subject": slice(first, end), "last": slice(-1, None)}
            yield torch.tensor([ids for ids, _ in examples]), torch.tensor([answer for _, answer in examples]), roles
