"""The probe engine: scores of all probes, computed in batches that do not change them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Side = Literal["left", "right"]


def score_probes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    probes: pd.DataFrame,
    *,
    batch_tokens: int = 8192,
    padding_side: Side = "left",
) -> pd.DataFrame:
    """Score every probe.

    Args:
        model: a causal language model of transformers, in eval mode.
        tokenizer: its tokenizer.
        probes: probes of a world, with ``prompt, target, candidates``.
        batch_tokens: tokens per batch, including padding.
        padding_side: padding side of the batches.

    Returns:
        One row per probe, in order:

        - ``representable``: the tokenizer can encode the target after the prompt; if not, all other columns are null.
        - ``first_token_correct``: the most probable next token is the target's first token.
        - ``exact_match``: every target token is the most probable one, given the preceding target tokens.
        - ``token_accuracy``: fraction of target tokens that are the most probable one, given the preceding ones.
        - ``generation_match``: greedy decoding generates the target followed by the end of the word.
        - ``loss_nats``: negative log probability of the whole target.
        - ``rank``: rank of the target's first token in the vocabulary; 1 is best.
        - ``candidate_probability``: probability of the target, normalised over the candidates as whole values.
        - ``candidate_correct``: no candidate is more probable than the target.
        - ``candidate_entropy``: entropy over the candidates, in nats.
        - ``confidence``: largest probability among the candidates.
        - ``predicted_token``: the most probable next token, as text.
        - ``n_target_tokens``: number of target tokens.
    """
    answers = AnswerTokens(tokenizer)
    prompts, targets = answers.encode_batch(probes["prompt"].tolist(), probes["target"].tolist())
    scorable = [i for i, target in enumerate(targets) if target]
    rows = pd.DataFrame(index=range(len(probes)), columns=list(_DTYPES)).astype(_DTYPES)
    rows["representable"] = [bool(target) for target in targets]
    if scorable:
        prompt_ids, target_ids = [prompts[i] for i in scorable], [targets[i] for i in scorable]
        runner = _BatchRunner(model, tokenizer, batch_tokens, padding_side)
        candidate_ids = [[answers.encode(candidate) for candidate in probes["candidates"].iloc[i]] for i in scorable]
        results = _score_targets(runner, prompt_ids, target_ids, candidate_ids)
        results |= _score_candidates(
            runner, prompt_ids, target_ids, candidate_ids, results.pop("first_candidate_tokens")
        )
        results["generation_match"] = _score_generation(
            runner, prompt_ids, target_ids, results.pop("greedy"), results["exact_match"]
        )
        results["predicted_token"] = [tokenizer.decode([token]) for token in results["predicted_token"]]
        results["n_target_tokens"] = [len(target) for target in target_ids]
        for column, values in results.items():
            rows.loc[scorable, column] = pd.array(values, dtype=_DTYPES[column])
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
    "predicted_token": "string",
    "n_target_tokens": "Int64",
}


class AnswerTokens:
    """Encodes answers as they appear after a prompt and a space."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.cache: dict[str, list[int]] = {}
        self.prefix_ids = tokenizer("is")["input_ids"]

    def encode(self, answer: str) -> list[int]:
        """Token ids of an answer after a space."""
        if answer not in self.cache:
            self.cache[answer] = self.tokenizer(f"is {answer}")["input_ids"][len(self.prefix_ids) :]
        return self.cache[answer]

    def encode_after(self, prompt: str, answer: str) -> list[int]:
        """Token ids of an answer after a prompt; empty if the tokenizer merges the two or lacks a token."""
        return self.encode_batch([prompt], [answer])[1][0]

    def encode_batch(self, prompts: Sequence[str], answers: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of the prompts, and of the answer after each prompt."""
        if not prompts:
            return [], []
        prompt_ids = self.tokenizer([*prompts])["input_ids"]
        full_ids = self.tokenizer([f"{prompt} {answer}" for prompt, answer in zip(prompts, answers, strict=True)])
        unk_token_id = self.tokenizer.unk_token_id
        answer_ids = []
        for prompt, ids, answer in zip(prompt_ids, full_ids["input_ids"], map(self.encode, answers), strict=True):
            fits = ids == prompt + answer and (unk_token_id is None or unk_token_id not in answer)
            answer_ids.append(answer if fits else [])
        return prompt_ids, answer_ids


class _BatchRunner:
    """Runs a model on padded batches of sequences of similar length."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens: int, side: Side) -> None:
        self.model, self.tokenizer, self.tokens, self.side = model, tokenizer, tokens, side
        self.device = next(model.parameters()).device
        self.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of the sequences in each batch: longest first, as many as fit."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self.tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def pad(self, sequences: Sequence[Sequence[int]], side: Side | None = None) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, both (batch, length)."""
        length = max(map(len, sequences))
        ids = torch.full((len(sequences), length), self.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            start = length - len(sequence) if (side or self.side) == "left" else 0
            ids[row, start : start + len(sequence)] = torch.tensor(sequence, dtype=torch.long)
            mask[row, start : start + len(sequence)] = 1
        return ids.to(self.device), mask.to(self.device)

    def log_probabilities(self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> Tensor:
        """Log probabilities of the next token at given positions of each sequence, (batch, position, vocabulary)."""
        ids, mask = self.pad(sequences)
        starts = ids.shape[1] - mask.sum(1) if self.side == "left" else torch.zeros(len(ids), dtype=torch.long)
        width = max(map(len, positions))
        columns = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in positions]) + starts.cpu()[:, None]
        keep, inverse = torch.unique(columns, return_inverse=True)
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position_ids,
                use_cache=False,
                logits_to_keep=keep.to(self.device),
            ).logits
        rows = torch.arange(len(ids))[:, None]
        return logits[rows, inverse].float().log_softmax(-1).cpu()


def _score_targets(
    runner: _BatchRunner, prompts: list[list[int]], targets: list[list[int]], choices: list[list[list[int]]]
) -> dict[str, list]:
    """Scores from one forward pass over prompt and target.

    ``greedy`` holds the most probable token at each target position and the one after, ``first_candidate_tokens`` the log probability of each
    candidate's first token.
    """
    sequences = [prompt + target_ids for prompt, target_ids in zip(prompts, targets, strict=True)]
    results: dict[str, list] = {}
    for batch in runner.batches([len(sequence) for sequence in sequences]):
        positions = [list(range(len(prompts[i]) - 1, len(sequences[i]))) for i in batch]
        log_probs = runner.log_probabilities([sequences[i] for i in batch], positions)
        lengths = torch.tensor([len(targets[i]) for i in batch])
        target_ids = pad_sequence([torch.tensor(targets[i]) for i in batch], batch_first=True)
        in_target = torch.arange(target_ids.shape[1]) < lengths[:, None]
        greedy, first_log_probs = log_probs.argmax(-1), log_probs[:, 0]
        is_correct = greedy[:, :-1] == target_ids
        target_log_probs = log_probs[:, :-1].gather(2, target_ids[..., None])[..., 0].double()
        first_ids = [[candidate[0] for candidate in choices[i]] for i in batch]
        columns = {
            "first_token_correct": is_correct[:, 0].tolist(),
            "exact_match": (is_correct | ~in_target).all(1).tolist(),
            "token_accuracy": ((is_correct & in_target).sum(1).double() / lengths).tolist(),
            "loss_nats": (-target_log_probs.where(in_target, 0).sum(1)).tolist(),
            "rank": (1 + (first_log_probs > first_log_probs.gather(1, target_ids[:, :1])).sum(1)).tolist(),
            "predicted_token": greedy[:, 0].tolist(),
            "greedy": greedy.tolist(),
            "first_candidate_tokens": [
                row[torch.tensor(ids, dtype=torch.long)].double()
                for row, ids in zip(first_log_probs, first_ids, strict=True)
            ],
        }
        for column, values in columns.items():
            column_values = results.setdefault(column, [None] * len(prompts))
            for i, value in zip(batch, values, strict=True):
                column_values[i] = value
    return results


def _score_candidates(
    runner: _BatchRunner,
    prompts: list[list[int]],
    targets: list[list[int]],
    choices: list[list[list[int]]],
    log_probs: list[Tensor],
) -> dict[str, list]:
    """The target's probability, normalised over the candidates as whole values.

    A prompt runs once; all its candidates of several tokens share its keys and values.
    """
    multi_token = [i for i, candidates in enumerate(choices) if any(len(ids) > 1 for ids in candidates)]
    # A probe costs one row per candidate of several tokens; a row is as long as prompt and candidate.
    costs = [
        sum(len(ids) > 1 for ids in choices[i]) * (len(prompts[i]) + max(map(len, choices[i]))) for i in multi_token
    ]
    for batch in runner.batches(costs):
        _add_later_tokens(runner, [multi_token[i] for i in batch], prompts, choices, log_probs)
    columns = ("candidate_probability", "candidate_correct", "candidate_entropy", "confidence")
    with_candidates = [i for i, candidates in enumerate(choices) if candidates]
    results: dict[str, list] = {column: [None] * len(choices) for column in columns}
    if not with_candidates:
        return results
    probabilities = pad_sequence(
        [log_probs[i] for i in with_candidates], batch_first=True, padding_value=-torch.inf
    ).softmax(1)
    target_probability = probabilities.gather(
        1, torch.tensor([[choices[i].index(targets[i])] for i in with_candidates])
    )[:, 0]
    largest = probabilities.amax(1)
    for column, values in zip(
        columns,
        (target_probability, target_probability == largest, torch.special.entr(probabilities).sum(1), largest),
        strict=True,
    ):
        for i, value in zip(with_candidates, values.tolist(), strict=True):
            results[column][i] = value
    return results


def _add_later_tokens(
    runner: _BatchRunner,
    probe_indices: list[int],
    prompts: list[list[int]],
    choices: list[list[list[int]]],
    log_probs: list[Tensor],
) -> None:
    ids, mask = runner.pad([prompts[i] for i in probe_indices], "left")
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    rows = [
        (row, j, candidate)
        for row, i in enumerate(probe_indices)
        for j, candidate in enumerate(choices[i])
        if len(candidate) > 1
    ]
    with torch.inference_mode():
        prefix = runner.model(
            input_ids=ids, attention_mask=mask, position_ids=position_ids, use_cache=True, logits_to_keep=1
        ).past_key_values
    # One pass per candidate length, so that no candidate is padded.
    for length in sorted({len(candidate) for _, _, candidate in rows}):
        same_length = [row for row in rows if len(row[2]) == length]
        prompt_rows = torch.tensor([row for row, _, _ in same_length], device=runner.device)
        tokens = torch.tensor([candidate for _, _, candidate in same_length], device=runner.device)
        with torch.inference_mode():
            cache = copy.deepcopy(prefix)
            cache.batch_select_indices(prompt_rows)
            logits = runner.model(
                input_ids=tokens[:, :-1],
                attention_mask=torch.cat([mask[prompt_rows], torch.ones_like(tokens[:, 1:])], 1),
                position_ids=position_ids[prompt_rows, -1:] + torch.arange(1, length, device=runner.device),
                past_key_values=cache,
                use_cache=True,
            ).logits
        candidate_log_probs = (
            logits.float().log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0].double().sum(1).cpu()
        )
        for (row, j, _), log_prob in zip(same_length, candidate_log_probs, strict=True):
            log_probs[probe_indices[row]][j] += log_prob


def _score_generation(
    runner: _BatchRunner,
    prompts: list[list[int]],
    targets: list[list[int]],
    greedy: list[list[int]],
    exact: list[bool],
) -> list[bool]:
    """Whether greedy decoding generates the target and then ends the word.

    Greedy decoding follows the target's tokens as long as each is the most probable one, so the forward pass decides
    most probes. Undecided are those where decoding continues with other tokens that may spell the same text, or where a
    character is split between two tokens.
    """
    decode = runner.tokenizer.decode
    matches, undecided = [False] * len(prompts), []
    for i, (target, greedy_ids) in enumerate(zip(targets, greedy, strict=True)):
        first_difference = next(
            (position for position, token in enumerate(target) if greedy_ids[position] != token), len(target)
        )
        text, target_text = decode(greedy_ids[: first_difference + 1]).strip(), decode(target).strip()
        if text.endswith(_REPLACEMENT_CHARACTER) or not exact[i]:
            text = text.rstrip(_REPLACEMENT_CHARACTER)
            if target_text.startswith(text) or text.startswith(target_text):
                undecided.append(i)
        else:
            matches[i] = _is_value(text, target_text)
    for batch in runner.batches([len(prompts[i]) for i in undecided]):
        probe_indices = [undecided[i] for i in batch]
        ids, mask = runner.pad([prompts[i] for i in probe_indices], "left")
        # A token is at least one byte of the preceding space, of the value, or of the character after it.
        max_new_tokens = max(len(decode(targets[i]).encode()) for i in probe_indices) + 5
        with torch.inference_mode():
            # Switch off settings of a pretrained model that would change greedy decoding.
            generated = runner.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, repetition_penalty=1.0,
                no_repeat_ngram_size=0, max_new_tokens=max_new_tokens, pad_token_id=runner.pad_token_id,
                eos_token_id=runner.tokenizer.eos_token_id,
            )  # fmt: skip
        for i, row in zip(probe_indices, generated[:, ids.shape[1] :], strict=True):
            matches[i] = _is_value(decode(row), decode(targets[i]))
    return matches


# `decode` writes this for bytes of a character that continues in the next token.
_REPLACEMENT_CHARACTER = "\ufffd"


def _is_value(text: str, target: str) -> bool:
    """Whether a text starts with a value that does not continue as a longer word."""
    text, target = text.strip(), target.strip()
    return text.startswith(target) and not text[len(target) : len(target) + 1].isalnum()


def entropy_nats(values: pd.Series) -> float:
    """Entropy of the empirical distribution of values: the loss of a model that knows the relation but no fact."""
    probabilities = values.value_counts(normalize=True).to_numpy()
    return float(-(probabilities * np.log(probabilities)).sum())
