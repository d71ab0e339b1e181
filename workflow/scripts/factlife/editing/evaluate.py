"""Evaluate probes of an edited model by probability, argmax, token accuracy and generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from factlife.recall.score import score_probes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate_probes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: pd.DataFrame, *, batch_tokens: int = 8192
) -> pd.DataFrame:
    """Four success criteria for every probe.

    Args:
        model: edited or not.
        tokenizer: its tokenizer.
        probes: as in ``requests``.
        batch_tokens: tokens per batch; results do not depend on it.

    Returns:
        One row per probe, in the same order: ``probability``, the target has a higher mean log probability per token than
        the alternative (CounterFact's success), null without an alternative; ``argmax``, each target token is the argmax;
        ``token_accuracy``, the fraction of target tokens that are the argmax given the tokens before them (zsRE's
        accuracy); ``generation``, greedy decoding writes the target and ends the word; ``predicted_token``, the most probable
        next token; ``nll`` and ``nll_alternative``, negative log-likelihood per token in nats.
    """
    questions = pd.DataFrame({"prompt": probes["prompt"], "target": probes["target"], "candidates": [[]] * len(probes)})
    target = score_probes(model, tokenizer, questions, batch_tokens=batch_tokens)
    has_alternative = (probes["alternative"] != "").to_numpy()
    alternatives = questions.assign(target=probes["alternative"])[has_alternative]
    alternative = score_probes(model, tokenizer, alternatives, batch_tokens=batch_tokens)
    results = pd.DataFrame(
        {
            "argmax": target["exact_match"],
            "token_accuracy": target["token_accuracy"],
            "generation": target["generation_match"],
            "predicted_token": target["predicted_token"],
            "nll": target["loss_nats"] / target["n_target_tokens"],
        }
    )
    results["nll_alternative"] = pd.Series(pd.NA, index=results.index, dtype="Float64")
    nll_alternative = alternative["loss_nats"] / alternative["n_target_tokens"]
    results.loc[has_alternative, "nll_alternative"] = nll_alternative.to_numpy()
    results.insert(0, "probability", results["nll"] < results["nll_alternative"])
    return results
