"""The probe engine: what a model says to every probe, in batches that change no score."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Side = Literal["left", "right"]


def score_probes(
    model: Any, tokenizer: Any, probes: pd.DataFrame, *, batch_tokens: int = 8192, padding_side: Side = "left"
) -> pd.DataFrame:
    """Score every probe.

    Args:
        model: a causal language model of transformers, in eval mode.
        tokenizer: its tokenizer.
        probes: a world's probes; ``prompt, target, candidates`` are read.
        batch_tokens: tokens in a batch, padding included.
        padding_side: where batches are padded.

    Returns:
        One row per probe, in their order:

        - ``representable``: whether the tokenizer can write the target after the prompt; if not, all else is null.
        - ``first_token_correct``: the most probable next token is the target's first.
        - ``exact_match``: every token of the target is the most probable one, given the target's tokens before it.
        - ``token_accuracy``: share of the target's tokens that are the most probable one, given those before them.
        - ``generation_match``: greedy decoding writes the target and then ends the word.
        - ``loss_nats``: minus log probability of the whole target.
        - ``rank``: of the target's first token in the vocabulary, 1 is best.
        - ``candidate_probability``: of the target among the candidates, as whole values.
        - ``candidate_correct``: no candidate is more probable than the target.
        - ``candidate_entropy``: over the candidates, in nats.
        - ``confidence``: the largest probability among the candidates.
        - ``first_token``, ``target_tokens``: the most probable next token as text, and how many tokens the target has.
    """
    answers = AnswerTokens(tokenizer)
    prompts, targets = answers.encode_batch(probes["prompt"].tolist(), probes["target"].tolist())
    kept = [number for number, target in enumerate(targets) if target]
    rows = pd.DataFrame(index=range(len(probes)), columns=list(_DTYPES)).astype(_DTYPES)
    rows["representable"] = [bool(target) for target in targets]
    if kept:
        ids, wanted = [prompts[number] for number in kept], [targets[number] for number in kept]
        batches = _BatchRunner(model, tokenizer, batch_tokens, padding_side)
        choices = [[answers.encode(candidate) for candidate in probes["candidates"].iloc[number]] for number in kept]
        found = _score_targets(batches, ids, wanted, choices)
        found |= _score_candidates(batches, ids, wanted, choices, found.pop("begun"))
        found["generation_match"] = _score_generation(batches, ids, wanted, found.pop("greedy"), found["exact_match"])
        found["first_token"] = [tokenizer.decode([token]) for token in found["first_token"]]
        found["target_tokens"] = [len(target) for target in wanted]
        for column, values in found.items():
            rows.loc[kept, column] = pd.array(values, dtype=_DTYPES[column])
    return rows


_DTYPES = {
    "representable": "bool",
    "first_token_correct": "boolean",
    "exact_match": "boolean",
    "token_accuracy": "Float64",
    "generation_match": "boolean",
    "loss_nats": "Float64",
    "rank": "Int64",
    "candidate_probability": "Float64",
    "candidate_correct": "boolean",
    "candidate_entropy": "Float64",
    "confidence": "Float64",
    "first_token": "string",
    "target_tokens": "Int64",
}


class AnswerTokens:
    """Token ids of answers as they stand after a prompt and a space."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, list[int]] = {}
        self.anchor = tokenizer("is")["input_ids"]

    def encode(self, answer: str) -> list[int]:
        """Ids of an answer after a space."""
        if answer not in self.known:
            self.known[answer] = self.tokenizer(f"is {answer}")["input_ids"][len(self.anchor) :]
        return self.known[answer]

    def encode_after(self, prompt: str, answer: str) -> list[int]:
        """Ids of an answer after this prompt; none where the tokenizer cannot write it there as a piece of its own."""
        return self.encode_batch([prompt], [answer])[1][0]

    def encode_batch(self, prompts: Sequence[str], answers: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of prompts, and of the answer after each."""
        if not prompts:
            return [], []
        begun = self.tokenizer([*prompts])["input_ids"]
        whole = self.tokenizer([f"{prompt} {answer}" for prompt, answer in zip(prompts, answers, strict=True)])
        unknown = self.tokenizer.unk_token_id
        found = []
        for start, ids, answer in zip(begun, whole["input_ids"], map(self.encode, answers), strict=True):
            fits = ids == start + answer and (unknown is None or unknown not in answer)
            found.append(answer if fits else [])
        return begun, found


class _BatchRunner:
    """Sequences padded to batches of similar length, and one forward pass over each."""

    def __init__(self, model: Any, tokenizer: Any, tokens: int, side: Side) -> None:
        self.model, self.tokenizer, self.tokens, self.side = model, tokenizer, tokens, side
        self.device = next(model.parameters()).device
        self.fill = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def of(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of the sequences in each batch: longest first, as many as fit."""
        batch: list[int] = []
        for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self.tokens:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def pad(self, sequences: Sequence[Sequence[int]], side: Side | None = None) -> tuple[Tensor, Tensor]:
        """Ids and mask, both (batch, length)."""
        length = max(map(len, sequences))
        ids = torch.full((len(sequences), length), self.fill)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            start = length - len(sequence) if (side or self.side) == "left" else 0
            ids[row, start : start + len(sequence)] = torch.tensor(sequence, dtype=torch.long)
            mask[row, start : start + len(sequence)] = 1
        return ids.to(self.device), mask.to(self.device)

    def log_probabilities(self, sequences: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tensor:
        """Log probabilities of the next token at the given places of each sequence, (batch, place, vocabulary)."""
        ids, mask = self.pad(sequences)
        starts = ids.shape[1] - mask.sum(1) if self.side == "left" else torch.zeros(len(ids), dtype=torch.long)
        width = max(map(len, places))
        columns = torch.tensor([[*row, *row[-1:] * (width - len(row))] for row in places]) + starts.cpu()[:, None]
        keep, inverse = torch.unique(columns, return_inverse=True)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=keep.to(self.device),
            ).logits
        rows = torch.arange(len(ids))[:, None]
        return logits[rows, inverse].float().log_softmax(-1).cpu()


def _score_targets(
    batches: _BatchRunner, prompts: list[list[int]], targets: list[list[int]], choices: list[list[list[int]]]
) -> dict[str, list]:
    """What one pass over prompt and target tells.

    ``greedy`` has the most probable token at each target place and after, ``begun`` the log probability of each
    candidate's first token.
    """
    sequences = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
    found: dict[str, list] = {}
    for batch in batches.of([len(sequence) for sequence in sequences]):
        places = [list(range(len(prompts[number]) - 1, len(sequences[number]))) for number in batch]
        log_p = batches.log_probabilities([sequences[number] for number in batch], places)
        lengths = torch.tensor([len(targets[number]) for number in batch])
        target = pad_sequence([torch.tensor(targets[number]) for number in batch], batch_first=True)
        inside = torch.arange(target.shape[1]) < lengths[:, None]
        greedy, first = log_p.argmax(-1), log_p[:, 0]
        right = greedy[:, :-1] == target
        gained = log_p[:, :-1].gather(2, target[..., None])[..., 0].double()
        begin = [[candidate[0] for candidate in choices[number]] for number in batch]
        told = {
            "first_token_correct": right[:, 0].tolist(),
            "exact_match": (right | ~inside).all(1).tolist(),
            "token_accuracy": ((right & inside).sum(1).double() / lengths).tolist(),
            "loss_nats": (-gained.where(inside, 0).sum(1)).tolist(),
            "rank": (1 + (first > first.gather(1, target[:, :1])).sum(1)).tolist(),
            "first_token": greedy[:, 0].tolist(),
            "greedy": greedy.tolist(),
            "begun": [row[torch.tensor(ids, dtype=torch.long)].double() for row, ids in zip(first, begin, strict=True)],
        }
        for column, values in told.items():
            of_all = found.setdefault(column, [None] * len(prompts))
            for number, value in zip(batch, values, strict=True):
                of_all[number] = value
    return found


def _score_candidates(
    batches: _BatchRunner,
    prompts: list[list[int]],
    targets: list[list[int]],
    choices: list[list[list[int]]],
    log_p: list[Tensor],
) -> dict[str, list]:
    """The target's share of probability among whole candidate values.

    A prompt runs once; its keys and values are then shared by all its candidates of several tokens.
    """
    longer = [number for number, candidates in enumerate(choices) if any(len(ids) > 1 for ids in candidates)]
    # One probe costs as many rows as it has candidates of several tokens, each as long as prompt and candidate.
    costs = [
        sum(len(ids) > 1 for ids in choices[number]) * (len(prompts[number]) + max(map(len, choices[number])))
        for number in longer
    ]
    for batch in batches.of(costs):
        _add_later_tokens(batches, [longer[number] for number in batch], prompts, choices, log_p)
    columns = ("candidate_probability", "candidate_correct", "candidate_entropy", "confidence")
    asked = [number for number, candidates in enumerate(choices) if candidates]
    found: dict[str, list] = {column: [None] * len(choices) for column in columns}
    if not asked:
        return found
    shares = pad_sequence([log_p[number] for number in asked], batch_first=True, padding_value=-torch.inf).softmax(1)
    share = shares.gather(1, torch.tensor([[choices[number].index(targets[number])] for number in asked]))[:, 0]
    most = shares.amax(1)
    for column, values in zip(columns, (share, share == most, torch.special.entr(shares).sum(1), most), strict=True):
        for number, value in zip(asked, values.tolist(), strict=True):
            found[column][number] = value
    return found


def _add_later_tokens(
    batches: _BatchRunner,
    numbers: list[int],
    prompts: list[list[int]],
    choices: list[list[list[int]]],
    log_p: list[Tensor],
) -> None:
    ids, mask = batches.pad([prompts[number] for number in numbers], "left")
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    rows = [
        (row, place, candidate)
        for row, number in enumerate(numbers)
        for place, candidate in enumerate(choices[number])
        if len(candidate) > 1
    ]
    with torch.inference_mode():
        prefix = batches.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        ).past_key_values
    # A pass for each length, so that no candidate is padded.
    for length in sorted({len(candidate) for _, _, candidate in rows}):
        alike = [row for row in rows if len(row[2]) == length]
        owner = torch.tensor([row for row, _, _ in alike], device=batches.device)
        tokens = torch.tensor([candidate for _, _, candidate in alike], device=batches.device)
        with torch.inference_mode():
            cache = copy.deepcopy(prefix)
            cache.batch_select_indices(owner)
            logits = batches.model(
                input_ids=tokens[:, :-1],
                attention_mask=torch.cat([mask[owner], torch.ones_like(tokens[:, 1:])], 1),
                position_ids=positions[owner, -1:] + torch.arange(1, length, device=batches.device),
                past_key_values=cache,
                use_cache=True,
            ).logits
        gained = logits.float().log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0].double().sum(1).cpu()
        for (row, place, _), gain in zip(alike, gained, strict=True):
            log_p[numbers[row]][place] += gain


def _score_generation(
    batches: _BatchRunner,
    prompts: list[list[int]],
    targets: list[list[int]],
    greedy: list[list[int]],
    exact: list[bool],
) -> list[bool]:
    """Whether greedy decoding writes the target and then ends the word.

    Greedy decoding follows the target's tokens as long as each is the most probable one, so the forward pass has
    already decided all but those probes where decoding leaves the target's tokens for others that may spell the same,
    or where a character is cut between two tokens.
    """
    decode = batches.tokenizer.decode
    found, open_ = [False] * len(prompts), []
    for number, (target, said) in enumerate(zip(targets, greedy, strict=True)):
        apart = next((place for place, token in enumerate(target) if said[place] != token), len(target))
        spelt, wanted = decode(said[: apart + 1]).strip(), decode(target).strip()
        if spelt.endswith(_REPLACEMENT_CHARACTER) or not exact[number]:
            spelt = spelt.rstrip(_REPLACEMENT_CHARACTER)
            if wanted.startswith(spelt) or spelt.startswith(wanted):
                open_.append(number)
        else:
            found[number] = _is_value(spelt, wanted)
    for batch in batches.of([len(prompts[number]) for number in open_]):
        numbers = [open_[number] for number in batch]
        ids, mask = batches.pad([prompts[number] for number in numbers], "left")
        # A token is at least a byte: of the space before the value, of the value, of the character after it.
        longest = max(len(decode(targets[number]).encode()) for number in numbers) + 5
        with torch.inference_mode():
            # What a pretrained model's own generation settings may hold against greedy decoding is switched off.
            written = batches.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, repetition_penalty=1.0,
                no_repeat_ngram_size=0, max_new_tokens=longest, pad_token_id=batches.fill,
                eos_token_id=batches.tokenizer.eos_token_id,
            )  # fmt: skip
        for number, row in zip(numbers, written[:, ids.shape[1] :], strict=True):
            found[number] = _is_value(decode(row), decode(targets[number]))
    return found


# What `decode` writes for the bytes of a character whose other bytes are in the next token.
_REPLACEMENT_CHARACTER = "\ufffd"


def _is_value(written: str, target: str) -> bool:
    """Whether a text begins with a value, and the value does not go on as a longer word."""
    written, target = written.strip(), target.strip()
    return written.startswith(target) and not written[len(target) : len(target) + 1].isalnum()


def entropy_nats(values: pd.Series) -> float:
    """Entropy of the empirical distribution of values: the loss of a model that knows the relation but no fact."""
    shares = values.value_counts(normalize=True).to_numpy()
    return float(-(shares * np.log(shares)).sum())
