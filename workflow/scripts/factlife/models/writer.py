"""A model that follows instructions as a writer of documents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from factlife.models.load import load_model


def load_writer(
    folder: str | Path, *, max_tokens: int, temperature: float | None = None, device: str = "cpu"
) -> Callable[[str], str]:
    """Answers prompts with the model in a folder, in its chat template where it has one.

    Every answer depends on its prompt and on how many answers that prompt had before, not on what else was asked.

    Args:
        folder: the model.
        max_tokens: of an answer.
        temperature: of sampling; 0 for the most probable tokens, nothing for 1.
        device: where it runs.
    """
    model, tokenizer = load_model(folder, device)
    asked: dict[str, int] = {}

    def ask(prompt: str) -> str:
        asked[prompt] = asked.get(prompt, 0) + 1
        seed = int.from_bytes(hashlib.sha256(f"{asked[prompt]} {prompt}".encode()).digest()[:6])
        if tokenizer.chat_template:
            given = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        else:
            given = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        given = given.to(device)
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = {"do_sample": True, "temperature": temperature or 1.0, "top_k": 0}
            ids = model.generate(
                **given,
                max_new_tokens=max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                **({"do_sample": False} if temperature == 0 else drawn),
            )
        return tokenizer.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask
