"""An instruction-tuned model that writes documents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from factlife.models.load import load_model


def load_writer(
    folder: str | Path, *, max_tokens: int, temperature: float | None = None, device: str = "cpu"
) -> Callable[[str], str]:
    """Load a model that answers prompts, in its chat template if it has one.

    An answer depends only on its prompt and on how many answers this prompt had before.

    Args:
        folder: the model's folder.
        max_tokens: maximum length of an answer.
        temperature: sampling temperature; 0 for greedy decoding; None for 1.
        device: device of the model.

    Returns:
        A function from prompt to answer.
    """
    model, tokenizer = load_model(folder, device)
    n_calls: dict[str, int] = {}

    def answer(prompt: str) -> str:
        n_calls[prompt] = n_calls.get(prompt, 0) + 1
        seed = int.from_bytes(hashlib.sha256(f"{n_calls[prompt]} {prompt}".encode()).digest()[:6])
        if tokenizer.chat_template:
            inputs = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        else:
            inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        inputs = inputs.to(device)
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            sampling = {"do_sample": True, "temperature": temperature or 1.0, "top_k": 0}
            ids = model.generate(
                **inputs,
                max_new_tokens=max_tokens,
                pad_token_id=tokenizer.pad_token_id,
                **({"do_sample": False} if temperature == 0 else sampling),
            )
        return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return answer
