import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

import tiny_models
from factlife.circuits.edges import CircuitError, EdgeModel
from factlife.circuits.roles import assign_roles, classify_heads, direct_logit_attribution, direction_before_norm
from factlife.tracing.patching import embed_tokens
from factlife.tracing.prompts import PromptPair


def prompts(count=4, length=6, subject=slice(1, 3)):
    draws = torch.randint(1, 40, (count, length), generator=torch.Generator().manual_seed(3)).tolist()
    return [
        PromptPair(f"p{row}", f"s{row}.r", "r", "t", tuple(ids), tuple(ids), None, ids[0], 39 - ids[0], 1,
             range(subject.start, subject.stop))
        for row, ids in enumerate(draws)
    ]  # fmt: skip


def test_effects_of_all_that_is_written_add_up_to_the_logits(family):
    """Heads by token add up to what each head writes, and all writers to the logit difference."""
    model, pairs = tiny_models.tiny(family), prompts()
    found = direct_logit_attribution(model, pairs)
    edges, ids = EdgeModel(model), torch.tensor([pair.ids for pair in pairs])
    answers = torch.tensor([[pair.answer, pair.donor_answer] for pair in pairs])
    states, norm, head = edges.record(embed_tokens(model, ids).clone()), edges.parts.final_norm, edges.parts.unembedding
    with torch.no_grad():
        logits, residual = model(ids).logits[:, -1].gather(1, answers), states.reads[-1][:, -1]
        towards = head.weight[answers[:, 0]] - head.weight[answers[:, 1]]
        bias = (norm(torch.zeros_like(residual)) * towards).sum(-1)
        if head.bias is not None:
            bias += head.bias[answers[:, 0]] - head.bias[answers[:, 1]]
        before = direction_before_norm(norm, residual, towards)
        total = (residual * before).sum(-1) + bias
        by_head = [
            (states.writes[row, :, -1] * before).sum(-1)
            for row, name in enumerate(edges.graph.writers)
            if name.startswith("a")
        ]

    torch.testing.assert_close(total, logits[:, 0] - logits[:, 1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.logit_diff.sum(-1).flatten(1), torch.stack(by_head, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.attention.sum(-1), torch.ones(4, 2, 4), atol=1e-5, rtol=1e-5)


def test_a_head_that_sees_the_subject_alone_is_a_subject_head():
    """Other tokens have no embedding: all that is read in the first layer was read from the subject."""
    model, pairs = tiny_models.tiny("llama-grouped"), prompts()
    named = sorted({token for pair in pairs for token in pair.ids[1:3]})
    others = sorted({token for pair in pairs for token in pair.ids} - set(named))
    with torch.no_grad():
        model.model.embed_tokens.weight[others] = 0
    found = direct_logit_attribution(model, pairs)
    clean = [row for row, pair in enumerate(pairs) if not set(pair.ids[3:]) & set(named)]

    assert clean
    after, subject = found.effects[clean, 0, :, 3:].abs().sum(), found.effects[clean, 0, :, 1:3].abs().sum()
    assert subject > 0 and after < 1e-6 * subject


@pytest.mark.parametrize(
    ("effects", "role"),
    [((1.0, 0.1), "subject"), ((-1.0, 0.05), "subject"), ((0.02, 1.0), "relation"), ((1.0, -0.2), "mixed"),
     ((0.01, 0.01), "none")],
)  # fmt: skip
def test_roles_by_hand(effects, role):
    assert assign_roles(np.array([effects, (1.0, 1.0)])) == [role, "mixed"]


def test_the_table_has_every_head_once():
    table = classify_heads(tiny_models.tiny("gpt_neox"), prompts(), resamples=20)

    assert len(table) == 2 * 4 * 4 and not table.duplicated(["relation", "head", "metric"]).any()
    assert table["n"].eq(4).all()
    attention = table[table["metric"] == "attention_to_subject"]["estimate"]
    assert attention.between(0, 1).all()
    assert classify_heads(tiny_models.tiny("gpt_neox"), [], resamples=20).empty


def test_heads_that_write_through_a_norm_have_no_direct_effects():
    model = Gemma2ForCausalLM(Gemma2Config(**tiny_models.GROUPED, head_dim=16)).eval()

    with pytest.raises(CircuitError, match="outputs of heads in gemma2 do not add up"):
        direct_logit_attribution(model, prompts())
