"""What an edited model says to the probes of its edits, by probability, by argmax, token by token and by generation."""

from __future__ import annotations

from typing import Any

import pandas as pd

from factlife.recall.score import score_probes


def evaluate_probes(model: Any, tokenizer: Any, probes: pd.DataFrame, *, batch_tokens: int = 8192) -> pd.DataFrame:
    """Four verdicts on every probe.

    Args:
        model: edited or not.
        tokenizer: its tokenizer.
        probes: of ``requests``.
        batch_tokens: tokens in a batch; no verdict depends on it.

    Returns:
        One row per probe, in their order: ``probability``, the wanted answer is more probable than the other, per token
        (CounterFact's success), null where there is no other; ``argmax``, each of its tokens is the most probable one;
        ``token_accuracy``, the share of them that is, each given those before it (zsRE's accuracy); ``generation``, greedy decoding
        writes it and ends the word; ``first_token``, the most probable next token; ``nll`` and ``nll_alternative``, minus log
        probability per token.
    """
    asked = pd.DataFrame({"prompt": probes["prompt"], "target": probes["target"], "candidates": [[]] * len(probes)})
    wanted = score_probes(model, tokenizer, asked, batch_tokens=batch_tokens)
    has_other = (probes["alternative"] != "").to_numpy()
    other = score_probes(
        model, tokenizer, asked.assign(target=probes["alternative"])[has_other], batch_tokens=batch_tokens
    )
    found = pd.DataFrame(
        {
            "argmax": wanted["exact_match"],
            "token_accuracy": wanted["token_accuracy"],
            "generation": wanted["generation_match"],
            "first_token": wanted["first_token"],
            "nll": wanted["loss_nats"] / wanted["target_tokens"],
        }
    )
    found["nll_alternative"] = pd.Series(pd.NA, index=found.index, dtype="Float64")
    found.loc[has_other, "nll_alternative"] = (other["loss_nats"] / other["target_tokens"]).to_numpy()
    found.insert(0, "probability", found["nll"] < found["nll_alternative"])
    return found
