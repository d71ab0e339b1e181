"""Target vectors: batched against one at a time, against a naive optimisation, and their effect on the model."""

import pandas as pd
import pytest
import torch
import transformers

from factlife.config.editing import EditRequests, EditSite, TargetVectorSettings
from factlife.editing import compute_ks, compute_z
from factlife.editing.editable import EditableModel, tokenize_prompt
from factlife.editing.requests import EditError, requests_from_world
from factlife.editing.suffix import Suffixes
from factlife.models.anatomy import patch

SETTINGS = TargetVectorSettings(v_num_grad_steps=6, n_context_templates=2, v_loss_threshold=0.0, clamp_norm_factor=0.5)
_COMMON = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
# What differs in how blocks are called: learnt positions, parallel blocks, norms after, windows, kinds of layers.
FAMILIES = {
    "Cohere2": {"num_key_value_heads": 2, "sliding_window": 3},
    "GPT2": {},
    "GPTJ": {"rotary_dim": 4, "n_inner": 48},
    "GPTNeoX": {"use_parallel_residual": True},
    "Gemma2": {"num_key_value_heads": 2, "head_dim": 16, "final_logit_softcapping": 2.0},
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 3},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16},
}
SITES = [
    EditSite(fact_token="subject_last", layers=[1]),
    EditSite(fact_token="last", layers=[1]),
    EditSite(fact_token="last", layers=[-1]),
]


@pytest.fixture
def requests(world):
    return requests_from_world(world, EditRequests(count=6))


def tiny(family):
    config = getattr(transformers, f"{family}Config")(**_COMMON, **FAMILIES[family])
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def naive_target_vectors(target, requests, site, settings):
    """One vector at a time, whole sequences, whole model, torch's own Adam."""
    needed = compute_ks.vector_slots(target, requests, site, one_vector_per_subject=settings.one_vector_per_subject)
    block = target.parts.blocks[target.layer_index(site.layers[-1])].module
    mlp = target.parts.blocks[target.layer_index(site.layers[-1])].mlp
    found = []
    for vector in range(needed[-1].vector + 1):
        slots = [slot for slot in needed if slot.vector == vector]
        spoken, kept, initial, written = [], [], [], []
        for slot in slots:
            one = requests.iloc[slot.request]
            for prefix in ("", *target.contexts[: settings.n_context_templates]):
                text = f"{prefix} {one['prompt']}".strip()
                spoken.append(tokenize_prompt(target, site, text, one["subject"], one["target_new"], slot.token))
        last = requests.iloc[slots[-1].request]
        related = zip(last["related_fact_ids"], last["related_prompts"], strict=True)
        others = [prompt for fact, prompt in related if fact not in set(requests["edit_id"])]
        kept = [
            tokenize_prompt(target, site, prompt, last["subject"]) for prompt in others or [f"{last['subject']} is a"]
        ]

        def run(one, delta=None, initial=initial):
            def add(hidden):
                initial.append(hidden[0, one.edit_position].detach())
                return (
                    None if delta is None else hidden.index_add(1, torch.tensor([one.edit_position]), delta[None, None])
                )

            with patch(block, add):
                return target.model(torch.tensor([one.input_ids])).logits[0].log_softmax(-1)

        contexts = 1 + min(settings.n_context_templates, len(target.contexts))
        for one in spoken[::contexts]:
            with patch(
                mlp, lambda output, one=one, written=written: written.append(output[0, one.edit_position].detach())
            ):
                run(one)
        home = torch.stack(initial).mean(0)
        with torch.no_grad():
            before = [run(one)[one.prompt_end] for one in kept]
        unit = torch.zeros_like(home, requires_grad=True)
        home = torch.stack(written).mean(0) if settings.norm_site == "mlp" else home
        relative = settings.units == "relative"
        scale = home.norm() / len(home) ** 0.5 if relative else 1.0
        longest = settings.clamp_norm_factor * home.norm() / scale
        adam = torch.optim.Adam([unit], lr=settings.v_lr)
        for step in range(settings.v_num_grad_steps):
            loss = settings.v_weight_decay * ((unit**2).mean() if relative else unit.norm() / home.norm() ** 2)
            for one in spoken:
                said = run(one, unit * scale)
                picked = [-said[one.prompt_end + n, token] for n, token in enumerate(one.target_ids)]
                loss = loss + torch.stack(picked).mean() / contexts
            for one, was in zip(kept, before, strict=True):
                now = run(one, unit * scale)[one.prompt_end]
                loss = loss + settings.kl_factor / len(kept) * (now.exp() * (now - was)).sum()
            if step == settings.v_num_grad_steps - 1:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                unit *= longest / unit.norm().clamp(min=longest)
        found.append((unit * scale).detach())
    return torch.stack(found)


PUBLISHED = {"units": "published", "v_lr": 0.3, "v_weight_decay": 0.5, "clamp_norm_factor": 4.0}


@pytest.mark.parametrize("changed", [PUBLISHED, PUBLISHED | {"norm_site": "mlp"}, {"norm_site": "mlp"}], ids=str)
def test_published_units_equal_plain_adam(target, requests, changed):
    settings = SETTINGS.model_copy(update=changed)

    found = compute_z.compute_target_vectors(target, requests, SITES[0], settings)

    expected = naive_target_vectors(target, requests, SITES[0], settings)
    assert (found.delta - expected).norm() <= 1e-5 * expected.norm()


def test_argmax_patience_stops_a_vector(target, requests):
    settings = SETTINGS.model_copy(update={"v_num_grad_steps": 40, "clamp_norm_factor": 20.0, "v_lr": 0.5})
    free = compute_z.compute_target_vectors(target, requests, SITES[1], settings)

    for patience in (1, 3):
        stopped = compute_z.compute_target_vectors(
            target, requests, SITES[1], settings.model_copy(update={"argmax_patience": patience})
        )
        for vector in range(len(stopped.delta)):
            steps = int(stopped.steps[vector])
            assert patience - 1 <= steps < int(free.steps[vector])
            # Its steps are those that it would have taken anyway.
            short = settings.model_copy(update={"v_num_grad_steps": steps + 1})
            if vector < 2:
                same = compute_z.compute_target_vectors(target, requests, SITES[1], short)
                torch.testing.assert_close(same.delta[vector], stopped.delta[vector], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("site", SITES, ids=str)
def test_batched_optimisation_equals_the_naive_one(target, requests, site):
    found = compute_z.compute_target_vectors(target, requests, site, SETTINGS)

    expected = naive_target_vectors(target, requests, site, SETTINGS)
    assert (found.delta - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("site", SITES[:2], ids=str)
def test_vectors_do_not_depend_on_the_batch_size(target, requests, site):
    together = compute_z.compute_target_vectors(target, requests, site, SETTINGS)
    alone = compute_z.compute_target_vectors(target, requests, site, SETTINGS.model_copy(update={"batch_size": 1}))

    torch.testing.assert_close(together.delta, alone.delta, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.losses, alone.losses, rtol=1e-5, atol=1e-6)


def test_converged_vectors_stop_and_the_others_continue_unchanged(target, requests):
    settings = SETTINGS.model_copy(update={"clamp_norm_factor": 3.0})
    free = compute_z.compute_target_vectors(target, requests, SITES[1], settings)
    limit = float(free.losses.median()) + 1e-3

    stopped = compute_z.compute_target_vectors(
        target, requests, SITES[1], settings.model_copy(update={"v_loss_threshold": limit})
    )

    done = stopped.losses < limit
    assert done.any() and not done.all()
    assert (stopped.steps[done] <= settings.v_num_grad_steps - 1).all() and (
        stopped.steps[~done] == settings.v_num_grad_steps - 1
    ).all()
    assert (stopped.steps[done] < settings.v_num_grad_steps - 1).any()
    torch.testing.assert_close(stopped.delta[~done], free.delta[~done], rtol=1e-4, atol=1e-5)


def test_vectors_are_no_longer_than_the_clamp(target, requests):
    settings = SETTINGS.model_copy(update={"clamp_norm_factor": 0.1, "v_lr": 1.0})
    found = compute_z.compute_target_vectors(target, requests, SITES[0], settings)

    initial = found.z - found.delta
    torch.testing.assert_close(found.delta.norm(dim=1), 0.1 * initial.norm(dim=1))


def test_the_model_predicts_the_new_value_with_its_vector_added(target, requests):
    site, one = SITES[1], requests.iloc[0]
    found = compute_z.compute_target_vectors(
        target,
        requests.head(1),
        site,
        TargetVectorSettings(
            v_num_grad_steps=60,
            n_context_templates=0,
            clamp_norm_factor=20.0,
            kl_factor=0.0,
            v_weight_decay=0.0,
            units="relative",
        ),
    )
    asked = tokenize_prompt(target, site, one["prompt"], one["subject"], one["target_new"])

    def add(hidden):
        hidden = hidden.clone()
        for slot, delta in zip(found.slots, found.delta, strict=True):
            hidden[0, asked.edit_position + slot.token] += delta
        return hidden

    with patch(target.parts.blocks[1].module, add):
        said = target.model(torch.tensor([asked.input_ids])).logits[0, asked.prompt_end :].argmax(-1)
    assert said.tolist() == asked.target_ids


def test_the_order_of_requests_about_several_subjects_does_not_matter(target, requests):
    mixed = pd.concat([requests.head(1), requests.tail(1), requests.head(1)]).assign(edit_id=["a", "b", "c"])
    sorted_ = mixed.iloc[[0, 2, 1]].reset_index(drop=True)

    found, expected = (
        compute_z.compute_target_vectors(target, table, SITES[0], SETTINGS) for table in (mixed, sorted_)
    )

    assert requests["subject"].iloc[0] != requests["subject"].iloc[-1] and len(found.delta) == 2
    torch.testing.assert_close(found.delta, expected.delta, rtol=1e-5, atol=1e-6)


def test_requests_about_one_subject_share_a_vector_at_its_last_token_only(target, requests):
    twice = pd.concat([requests.head(2)] * 2).reset_index(drop=True)
    subject, last = EditSite(fact_token="subject_last"), EditSite(fact_token="last")
    two = twice["subject"].nunique()

    assert {
        slot.vector for slot in compute_ks.vector_slots(target, twice, subject, one_vector_per_subject=True)
    } == set(range(two))
    assert (
        len({slot.vector for slot in compute_ks.vector_slots(target, twice, subject, one_vector_per_subject=False)})
        == 4
    )
    tokens = [
        len(tokenize_prompt(target, last, r.prompt, r.subject, r.target_new).target_ids) for r in twice.itertuples()
    ]
    assert [slot.token for slot in compute_ks.vector_slots(target, twice, last, one_vector_per_subject=True)] == [
        token for count in tokens for token in range(count)
    ]


def test_keys_are_half_the_bare_prompt_and_half_the_mean_over_contexts(target, requests):
    site, layer = SITES[0], 1
    needed = compute_ks.vector_slots(target, requests, site, one_vector_per_subject=False)

    found = compute_ks.compute_keys(target, requests, needed, site, layer, 2)

    request, expected = requests.iloc[3], []
    for prefix in ("", *target.contexts):
        one = tokenize_prompt(target, site, f"{prefix} {request['prompt']}".strip(), request["subject"])
        seen = []
        with patch(target.parts.blocks[layer].mlp_out, seen.append, inputs=True), torch.no_grad():
            target.model(torch.tensor([one.input_ids]))
        expected.append(seen[0][0, one.edit_position])
    torch.testing.assert_close(found[:, 3], expected[0] / 2 + (expected[1] + expected[2]) / 4)


def test_blocks_after_the_one_that_is_read_do_not_run(target, requests):
    needed = compute_ks.vector_slots(target, requests, SITES[0], one_vector_per_subject=False)
    runs = []
    for number, block in enumerate(target.parts.blocks):
        block.module.register_forward_hook(lambda *_, number=number: runs.append(number))

    compute_ks.compute_keys(target, requests, needed, SITES[0], 1, 2)
    compute_ks.compute_hidden_states(target, requests, needed, SITES[0], 1)

    # A block whose down-projection is read does not return.
    assert runs == [0, 0, 0, 0, 1]


def test_the_subjects_last_token_is_found_behind_a_context(target, requests):
    one = requests.iloc[0]
    made = tokenize_prompt(target, SITES[0], f"The end . {one['prompt']}", one["subject"], one["target_new"])

    names = target.tokenizer(one["subject"])["input_ids"][1:]
    assert made.input_ids[made.edit_position] == names[-1]
    assert made.input_ids[made.edit_position - len(names) + 1 : made.edit_position + 1] == names
    assert (
        tokenize_prompt(target, SITES[1], one["prompt"], one["subject"]).edit_position
        == len(target.tokenizer(one["prompt"])["input_ids"]) - 1
    )
    with pytest.raises(EditError, match="is not in the prompt"):
        tokenize_prompt(target, SITES[0], one["prompt"], "Nobody")


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_suffixes_equal_the_whole_model(family, layer, generator):
    model = tiny(family)
    sequences = [torch.randint(1, 40, (length,), generator=generator).tolist() for length in (5, 9, 6, 7)]
    positions = [0, 4, 5, 2]
    suffixes = Suffixes(model, sequences, positions, layer, 0)
    change = torch.randn(4, suffixes.hidden.shape[2], generator=generator)

    row, column = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([0, 4, 2, 0, 0, 4])
    others = torch.tensor([2, 0])

    with torch.no_grad():
        changed = torch.cat([suffixes.hidden[:, :1] + change[:, None], suffixes.hidden[:, 1:]], 1)
        found = suffixes.rerun(changed, row, column)
        some = suffixes.select(others).rerun(changed[others], torch.tensor([0, 1, 1]), torch.tensor([0, 0, 4]))

    torch.testing.assert_close(some, found[[3, 0, 1]], rtol=1e-4, atol=1e-4)
    for number, (sequence, position) in enumerate(zip(sequences, positions, strict=True)):

        def add(hidden, number=number, position=position):
            return hidden.index_add(1, torch.tensor([position]), change[None, number : number + 1])

        with patch(suffixes.parts.blocks[layer].module, add), torch.no_grad():
            whole = model.base_model(torch.tensor([sequence])).last_hidden_state[0]
        own = row == number
        torch.testing.assert_close(found[own], whole[position + column[own]], rtol=1e-4, atol=1e-4)
    assert not any("forward" in vars(part) for part in model.modules())


def test_missing_key_covariance_is_an_error(target):
    with pytest.raises(EditError, match="block 1 was not computed"):
        EditableModel(target.model, target.tokenizer).key_covariance(1)
    with pytest.raises(EditError, match="layer 7 does not exist: the model has blocks 0 to 2"):
        target.layer_index(7)
