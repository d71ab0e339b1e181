"""Seconds of editing: target values all at once, one at a time, and as the originals find them; second moments in one pass.

All ways see the same sequences and take the same steps, so that they must end with the same values. The originals' way
(ROME, MEMIT and what is built on them): one request at a time, the whole network at every step, the unembedding of all
tokens, twice, and a number fetched at every step. CPU seconds of this process.
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
from factlife.editing import compute_z, covariance, requests  # noqa: E402
from factlife.editing.editable import EditableModel  # noqa: E402
from factlife.models.anatomy import capture, patch, unembed  # noqa: E402


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of some work, and what it returns."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def as_the_originals(
    target: EditableModel, wanted: Any, place: EditSite, settings: TargetVectorSettings, vectors: int
) -> Tensor:
    """δ of the first vectors, each by itself, (vector, d_model)."""
    needed = compute_z.vector_slots(target, wanted, place, joint=settings.one_vector_per_subject)
    found = []
    for vector in range(vectors):
        made = compute_z._sequences(target, wanted, [slot for slot in needed if slot.vector == vector], place, settings)
        found.append(_original(target, made, target.layer(place.layers[-1]), settings))
    return torch.stack(found)


def _original(target: EditableModel, made: Any, layer: int, settings: TargetVectorSettings) -> Tensor:
    model, parts, rows = target.model, target.parts, made.rows
    width = max(len(row.ids) for row in rows)
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)], mask[number, : len(row.ids)] = torch.tensor(row.ids), 1
        labels[number, row.asked : row.asked + len(row.target)] = torch.tensor(row.target)
    at = torch.arange(len(rows)), torch.tensor([row.place for row in rows])
    told = torch.tensor([bool(row.target) for row in rows])
    ends = torch.tensor([row.place if settings.kl_prompts == "essence" else row.asked for row in rows])
    weight = torch.tensor(made.weight)
    blocks = {"edited": parts.blocks[layer].module, "last": parts.blocks[-1].module}
    with torch.no_grad(), capture(blocks) as first:
        logits = model(ids, attention_mask=mask, use_cache=False).logits
    before = logits.log_softmax(-1)[torch.arange(len(rows)), ends][~told]
    bare = torch.tensor(made.bare)
    start = first["edited"][at][bare].mean(0)
    scale = start.norm() / len(start) ** 0.5
    delta = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.v_lr)
    for step in range(settings.v_num_grad_steps):

        def add(hidden: Tensor, change: Tensor = scale * delta) -> Tensor:
            return hidden.index_put(at, change.expand(len(rows), -1), accumulate=True)

        with patch(blocks["edited"], add), capture({"last": blocks["last"]}) as hidden:
            logits = model(ids, attention_mask=mask, use_cache=False).logits
        again = unembed(parts, parts.final_norm(hidden["last"])).log_softmax(-1)
        picked = again.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0].masked_fill(labels < 0, 0)
        said = -(picked.sum(1) / (labels >= 0).sum(1).clamp(min=1) * weight)[told].sum()
        now = logits.log_softmax(-1)[torch.arange(len(rows)), ends][~told]
        drift = ((now.exp() * (now - before)).sum(1) * weight[~told]).sum()
        loss = said + drift + settings.v_weight_decay * (delta**2).mean()
        logging.info("%.3f = %.3f + %.3f", loss.item(), said.item(), drift.item())
        if step == settings.v_num_grad_steps - 1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            delta *= (settings.clamp_norm_factor * len(delta) ** 0.5 / delta.norm()).clamp(max=1)
    return (scale * delta).detach()


def by_layer(model: Any, sequences: list[list[int]], multiple: int, fill: int, layers: int) -> dict[int, Tensor]:
    """Second moments with a pass for each layer."""
    return {
        layer: covariance.compute_covariance(model, sequences, tokens_per_key_dim=multiple, pad_token_id=fill)[0][layer]
        for layer in range(layers)
    }


def _target_values(
    target: EditableModel, wanted: Any, place: EditSite, settings: TargetVectorSettings, few: int
) -> None:
    """Print seconds a vector of the three ways, the slow two of which do a few requests only."""
    some, one_by_one = wanted.head(few), settings.model_copy(update={"batch_size": 1})
    count = len(compute_z.vector_slots(target, some, place, joint=False))
    fast, found = timed(lambda: compute_z.compute_target_vectors(target, wanted, place, settings).delta)
    each = fast / len(found)
    print(f"{place.fact_token:14}{'all at once':22}{len(found):8}{each:10.4f}")
    for way, work in (
        ("one at a time", lambda: compute_z.compute_target_vectors(target, some, place, one_by_one).delta),
        ("as the originals", lambda: as_the_originals(target, some, place, settings, count)),
    ):
        seconds, slow = timed(work)
        differs = ((slow - found[:count]).norm(dim=1) / slow.norm(dim=1)).max().item()
        print(
            f"{place.fact_token:14}{way:22}{count:8}{seconds / count:10.4f}{seconds / count / each:8.1f}{differs:17.1e}"
        )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="results/models/people-pieces/seed-0", help="a model's folder")
    parser.add_argument("--world", default="results/worlds/people", help="a world's folder")
    parser.add_argument("--edits", type=int, default=64)
    parser.add_argument("--slow", type=int, default=8, help="edits that the slow ways do")
    parser.add_argument("--steps", type=int, default=25, help="gradient steps of all ways")
    parser.add_argument("--layer", type=int, default=1)
    parser.add_argument("--tokens", nargs="+", default=["subject_last", "last"])
    parser.add_argument("--multiple", type=int, default=20, help="tokens of second moments; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable(logging.WARNING)

    truth = world.load_world(arguments.world)
    model, tokenizer = models.load_model(arguments.model)
    wanted = requests.validate_requests(
        requests.requests_from_world(truth, EditRequests(count=arguments.edits)), tokenizer
    )
    wanted = wanted[wanted["dropped"] == ""].reset_index(drop=True)
    others = world.load_world(arguments.world).probes.query("kind == 'forward'")["prompt"].tail(5).tolist()
    target = EditableModel(model, tokenizer, others)
    settings = TargetVectorSettings(
        v_num_grad_steps=arguments.steps,
        v_loss_threshold=0.0,
        one_vector_per_subject=False,
        kl_prompts="essence",
        batch_size=4 * arguments.edits,
    )
    few = min(arguments.slow, len(wanted))
    print(
        f"{arguments.model}: {len(wanted)} edits, block {arguments.layer}, six contexts, {settings.v_num_grad_steps} steps"
    )
    print(f"{'edited token':14}{'way':22}{'vectors':>8}{'s/vector':>10}{'ratio':>8}{'rel. difference':>17}")
    for token in arguments.tokens:
        _target_values(target, wanted, EditSite(fact_token=token, layers=[arguments.layer]), settings, few)
    if arguments.multiple:
        passes: list[int] = []
        hook = target.parts.blocks[0].module.register_forward_hook(lambda *_: passes.append(1))
        sequences = tokenizer(truth.probes["prompt"].tolist())["input_ids"]
        layers, fill = len(target.parts.blocks), tokenizer.pad_token_id or 0
        found = {}
        for way, work in (
            (
                "one pass",
                lambda: covariance.compute_covariance(
                    model, sequences, tokens_per_key_dim=arguments.multiple, pad_token_id=fill
                )[0],
            ),
            ("a pass a layer", lambda: by_layer(model, sequences, arguments.multiple, fill, layers)),
        ):
            passes.clear()
            seconds, found[way] = timed(work)
            print(f"second moments, {way}: {len(passes)} forward passes, {seconds:.1f} s")
        same = all(torch.equal(moment, found["a pass a layer"][layer]) for layer, moment in found["one pass"].items())
        print(f"the same moments: {same}")
        hook.remove()


if __name__ == "__main__":
    main()
