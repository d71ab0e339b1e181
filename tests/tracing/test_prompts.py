import pytest

from factlife.tracing.prompts import TracingError, make_prompt_pairs, subject_positions, token_roles


@pytest.mark.parametrize(
    ("length", "subject", "roles"),
    [
        (7, range(1, 4), "prefix subject_first subject_middle subject_last relation relation last"),
        (5, range(1, 3), "prefix subject_first subject_last relation last"),
        (4, range(2, 3), "prefix prefix subject_last last"),
        (2, range(1, 2), "prefix subject_last"),
    ],
)
def test_every_token_has_one_role(length, subject, roles):
    assert token_roles(length, subject) == roles.split()


def test_the_subjects_tokens_are_those_that_write_its_name(small_tokenizer, small_world):
    for probe in small_world.probes[small_world.probes["kind"] == "forward"].itertuples():
        name = small_world.entities.set_index("entity_id").loc[probe.fact_id.split(".")[0], "name"]
        places = subject_positions(small_tokenizer, probe.prompt, name)

        ids = small_tokenizer(probe.prompt)["input_ids"]
        assert small_tokenizer.decode([ids[place] for place in places]).strip() == name


def test_a_prompt_without_its_subject_is_an_error(small_tokenizer):
    with pytest.raises(TracingError, match="'Nobody' is not found in its prompt 'Somebody studied'"):
        subject_positions(small_tokenizer, "Somebody studied", "Nobody")


def test_pairs_differ_in_the_subject_alone(small_tokenizer, small_world):
    probes = small_world.probes[small_world.probes["kind"] == "forward"]
    values = small_world.facts.set_index("fact_id")["value"]

    pairs, left_out = make_prompt_pairs(small_tokenizer, small_world, probes)

    assert len(pairs) == len(probes) and not left_out
    for pair in pairs:
        apart = [place for place, (one, other) in enumerate(zip(pair.ids, pair.donor_ids, strict=True)) if one != other]
        assert apart and set(apart) <= set(pair.subject)
        assert small_tokenizer.decode([pair.answer]).strip() == values[pair.fact_id]
        assert pair.answer != pair.donor_answer
        assert pair.same_answer_ids not in (None, pair.ids, pair.donor_ids)
        assert pair.roles[pair.subject[-1]] == "subject_last"


def test_donors_can_be_limited_and_who_has_none_is_left_out_with_the_reason(small_tokenizer, small_world):
    probes = small_world.probes[small_world.probes["kind"] == "forward"]
    facts = small_world.facts[small_world.facts["relation"] == "major"]
    alike = facts[facts["value"] == facts["value"].iloc[0]]
    asked = probes[probes["fact_id"].isin(alike["fact_id"])]

    pairs, left_out = make_prompt_pairs(small_tokenizer, small_world, asked, donors=set(alike["entity_id"]))

    assert not pairs
    assert set(left_out) == set(asked["probe_id"])
    assert "no other subject has a name of 2 tokens and an answer with a different first token" in left_out.values()


def test_the_draw_depends_on_the_seed_and_not_on_other_probes(small_tokenizer, small_world):
    probes = small_world.probes[small_world.probes["kind"] == "forward"]

    pairs, _ = make_prompt_pairs(small_tokenizer, small_world, probes, seed=1)
    few, _ = make_prompt_pairs(small_tokenizer, small_world, probes.tail(5), seed=1)
    others, _ = make_prompt_pairs(small_tokenizer, small_world, probes, seed=2)

    assert few == pairs[-5:]
    assert others != pairs
