"""CPU seconds of editing: target vectors batched, one at a time, and as published; key covariance in one pass.

All methods use the same sequences and take the same steps, so that they must arrive at the same vectors. The published code
(ROME, MEMIT and derivatives) optimises one request at a time, runs the whole network at every step, computes the logits of all
tokens twice, and copies a number to the CPU at every step.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from factlife import models, world  # noqa: E402
from factlife.config.editing import EditRequests, EditSite, TargetVectorSettings  # noqa: E402
from factlife.editing import compute_ks, compute_z, covariance, requests  # noqa: E402
from factlife.editing.editable import EditableModel  # noqa: E402
from factlife.models.anatomy import capture, patch, unembed  # noqa: E402


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a function call, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def as_published(
    target: EditableModel, edits: Any, site: EditSite, settings: TargetVectorSettings, n_vectors: int
) -> Tensor:
    """δ of the first vectors, one at a time, (vector, d_model)."""
    slots = compute_ks.vector_slots(target, edits, site, one_vector_per_subject=settings.one_vector_per_subject)
    deltas = []
    for vector in range(n_vectors):
        own_slots = [slot for slot in slots if slot.vector == vector]
        batch = compute_z.loss_sequences(target, edits, own_slots, site, settings)
        deltas.append(_published_delta(target, batch, target.layer_index(site.layers[-1]), settings))
    return torch.stack(deltas)


def _published_delta(
    target: EditableModel, batch: compute_z.LossSequences, layer: int, settings: TargetVectorSettings
) -> Tensor:
    model, parts, sequences = target.model, target.parts, batch.sequences
    width = max(len(sequence.input_ids) for sequence in sequences)
    ids, mask = torch.zeros(2, len(sequences), width, dtype=torch.long)
    labels = torch.full((len(sequences), width), -100)
    for row, sequence in enumerate(sequences):
        length, end = len(sequence.input_ids), sequence.prompt_end + len(sequence.target_ids)
        ids[row, :length], mask[row, :length] = torch.tensor(sequence.input_ids), 1
        labels[row, sequence.prompt_end : end] = torch.tensor(sequence.target_ids)
    rows = torch.arange(len(sequences))
    edit_positions = rows, torch.tensor([sequence.edit_position for sequence in sequences])
    has_target = torch.tensor([bool(sequence.target_ids) for sequence in sequences])
    at_subject = settings.kl_prompts == "essence"
    kl_positions = torch.tensor(
        [sequence.edit_position if at_subject else sequence.prompt_end for sequence in sequences]
    )
    weight = torch.tensor(batch.weights)
    blocks = {"edited": parts.blocks[layer].module, "last": parts.blocks[-1].module}
    with torch.no_grad(), capture(blocks) as hidden:
        logits = model(ids, attention_mask=mask, use_cache=False).logits
    original = logits.log_softmax(-1)[rows, kl_positions][~has_target]
    initial = hidden["edited"][edit_positions][torch.tensor(batch.is_bare)].mean(0)
    scale = initial.norm() / len(initial) ** 0.5
    delta = torch.zeros_like(initial, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.v_lr)
    for step in range(settings.v_num_grad_steps):

        def add(hidden: Tensor, change: Tensor = scale * delta) -> Tensor:
            return hidden.index_put(edit_positions, change.expand(len(sequences), -1), accumulate=True)

        with patch(blocks["edited"], add), capture({"last": blocks["last"]}) as hidden:
            logits = model(ids, attention_mask=mask, use_cache=False).logits
        log_probs = unembed(parts, parts.final_norm(hidden["last"])).log_softmax(-1)
        token_log_probs = log_probs.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0].masked_fill(labels < 0, 0)
        mean_log_probs = token_log_probs.sum(1) / (labels >= 0).sum(1).clamp(min=1)
        nll = -(mean_log_probs * weight)[has_target].sum()
        edited = logits.log_softmax(-1)[rows, kl_positions][~has_target]
        kl = ((edited.exp() * (edited - original)).sum(1) * weight[~has_target]).sum()
        loss = nll + kl + settings.v_weight_decay * (delta**2).mean()
        logging.info("%.3f = %.3f + %.3f", loss.item(), nll.item(), kl.item())
        if step == settings.v_num_grad_steps - 1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            delta *= (settings.clamp_norm_factor * len(delta) ** 0.5 / delta.norm()).clamp(max=1)
    return (scale * delta).detach()


def covariance_by_layer(
    model: Any, sequences: list[list[int]], tokens_per_key_dim: int, pad_token_id: int, n_layers: int
) -> dict[int, Tensor]:
    """Key covariance with a separate pass for each layer."""
    options = {"tokens_per_key_dim": tokens_per_key_dim, "pad_token_id": pad_token_id}
    return {layer: covariance.compute_covariance(model, sequences, **options)[0][layer] for layer in range(n_layers)}


def _compare_target_vectors(
    target: EditableModel, edits: Any, site: EditSite, settings: TargetVectorSettings, n_slow: int
) -> None:
    """Print seconds per vector of three methods; the two slow ones run on a few requests only."""
    few, one_by_one = edits.head(n_slow), settings.model_copy(update={"batch_size": 1})
    count = len(compute_ks.vector_slots(target, few, site, one_vector_per_subject=False))
    seconds, vectors = timed(lambda: compute_z.compute_target_vectors(target, edits, site, settings).delta)
    fast = seconds / len(vectors)
    print(f"{site.fact_token:14}{'batched':22}{len(vectors):8}{fast:10.4f}")
    for method, work in (
        ("one at a time", lambda: compute_z.compute_target_vectors(target, few, site, one_by_one).delta),
        ("as published", lambda: as_published(target, few, site, settings, count)),
    ):
        seconds, slow_vectors = timed(work)
        difference = ((slow_vectors - vectors[:count]).norm(dim=1) / slow_vectors.norm(dim=1)).max().item()
        slow = seconds / count
        print(f"{site.fact_token:14}{method:22}{count:8}{slow:10.4f}{slow / fast:8.1f}{difference:17.1e}")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="results/models/people-pieces/seed-0", help="folder of a model")
    parser.add_argument("--world", default="results/worlds/people", help="folder of a world")
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--slow", type=int, default=8, help="number of edits for the slow methods")
    parser.add_argument("--steps", type=int, default=25, help="optimisation steps of all methods")
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--tokens", nargs="+", default=["subject_last", "last"])
    parser.add_argument(
        "--tokens-per-key-dim", type=int, default=20, help="tokens of the key covariance; 0 for no covariance"
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)

    truth = world.load_world(arguments.world)
    model, tokenizer = models.load_model(arguments.model)
    edits = requests.requests_from_world(truth, EditRequests(count=arguments.edits))
    edits = requests.validate_requests(edits, tokenizer)
    edits = edits[edits["dropped"] == ""].reset_index(drop=True)
    contexts = truth.probes.query("kind == 'forward'")["prompt"].tail(5).tolist()
    target = EditableModel(model, tokenizer, contexts)
    settings = TargetVectorSettings(
        v_num_grad_steps=arguments.steps,
        v_loss_threshold=0.0,
        one_vector_per_subject=False,
        kl_prompts="essence",
        batch_size=4 * arguments.edits,
    )
    n_slow = min(arguments.slow, len(edits))
    print(f"{arguments.model}: {len(edits)} edits, block {arguments.layer}, six contexts, {arguments.steps} steps")
    print(f"{'edited token':14}{'method':22}{'vectors':>8}{'s/vector':>10}{'ratio':>8}{'rel. difference':>17}")
    for fact_token in arguments.tokens:
        site = EditSite(fact_token=fact_token, layers=[arguments.layer])
        _compare_target_vectors(target, edits, site, settings, n_slow)
    if arguments.tokens_per_key_dim:
        passes: list[int] = []
        hook = target.parts.blocks[0].module.register_forward_hook(lambda *_: passes.append(1))
        sequences = tokenizer(truth.probes["prompt"].tolist())["input_ids"]
        options = {"tokens_per_key_dim": arguments.tokens_per_key_dim, "pad_token_id": tokenizer.pad_token_id or 0}
        n_layers, results = len(target.parts.blocks), {}
        for method, work in (
            ("one pass", lambda: covariance.compute_covariance(model, sequences, **options)[0]),
            ("one pass per layer", lambda: covariance_by_layer(model, sequences, *options.values(), n_layers)),
        ):
            passes.clear()
            seconds, results[method] = timed(work)
            print(f"key covariance, {method}: {len(passes)} forward passes, {seconds:.1f} s")
        by_layer = results["one pass per layer"]
        equal = all(torch.equal(matrix, by_layer[layer]) for layer, matrix in results["one pass"].items())
        print(f"equal covariance: {equal}")
        hook.remove()


if __name__ == "__main__":
    main()
