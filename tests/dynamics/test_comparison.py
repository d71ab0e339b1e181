"""Experiments on recall tables whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from factlife.config.dynamics import Experiment
from factlife.dynamics import compare_experiments
from factlife.dynamics.comparison import DETAILS, ESTIMATES, KEYS, arm_history

PEOPLE = [f"p{number:02d}" for number in range(40)]
ENTITIES = pd.DataFrame(
    {
        "entity_id": PEOPLE,
        "split": ["qa_train", "qa_heldout"] * 20,
        "new": [number >= 30 for number in range(40)],
    }
)


def recall(model, shares, kind="forward", seed=0, people=PEOPLE, step=10):
    """One probe a person; at each checkpoint the first share of the people is known."""
    return pd.DataFrame(
        [
            {
                "model": model,
                "seed": seed,
                "step": step * place,
                "probe_id": f"{person}.birth_city.{kind}",
                "fact_id": f"{person}.birth_city",
                "relation": "birth_city",
                "kind": kind,
                "exact_match": float(number < share * len(people)),
            }
            for place, share in enumerate(shares)
            for number, person in enumerate(people)
        ]
    )


def run(comparison, tables, *, arms, seeds=(0,), over="facts", entities=ENTITIES, **more):
    experiment = Experiment.model_validate(
        {
            "comparison": comparison,
            "control": next(iter(arms)),
            "arms": arms,
            "seeds": seeds,
            "interval_over": over,
            **more,
        }
    )
    models = {model for names in arms.values() for model in names}
    return compare_experiments(
        {"x": experiment}, pd.concat(tables, ignore_index=True), dict.fromkeys(models, entities), resamples=200
    )


def one(table, arm, metric, group="", seed=0):
    rows = table[(table["arm"] == arm) & (table["metric"] == metric) & (table["seed"] == seed) & table["step"].isna()]
    return rows[rows["group"] == group].squeeze()


ARMS = {"a": ["a"], "b": ["b"]}


def test_learning_counts_steps_and_their_difference_from_the_control():
    table = run("learning", [recall("a", [0, 0, 0.5, 1]), recall("b", [0, 0.5, 0.9, 0.9])], arms=ARMS)

    assert list(table.columns) == [*KEYS, *ESTIMATES, *DETAILS]
    assert one(table, "a", "steps_to_50")["estimate"] == 20
    assert one(table, "b", "steps_to_50")["estimate"] == 10
    assert one(table, "b", "steps_to_50")["effect"] == -10
    assert one(table, "a", "steps_to_95")["estimate"] == pytest.approx(29)
    assert one(table, "b", "steps_to_95")["estimate"] == np.inf
    assert np.isnan(one(table, "a", "steps_to_50")["effect"])
    assert one(table, "b", "final_exact_match")["effect"] == pytest.approx(-0.1)
    curve = table[(table["arm"] == "b") & (table["metric"] == "exact_match")]
    assert dict(zip(curve["step"], curve["estimate"], strict=True)) == {0: 0, 10: 0.5, 20: 0.9, 30: 0.9}
    assert (table["control"] == "a").all() and (table["n"] == 40).all()


def test_arms_with_the_same_people_are_compared_person_by_person():
    # The same people are right in both arms, so that no resample sees a difference.
    table = run("learning", [recall("a", [0, 0.5]), recall("b", [0, 0.5])], arms=ARMS)
    found = one(table, "b", "final_exact_match")
    assert found["ci_high"] - found["ci_low"] > 0.2
    assert (found["effect"], found["effect_low"], found["effect_high"]) == (0, 0, 0)


def test_extraction_tells_asked_people_from_unasked_and_leaves_out_late_ones():
    asked, unasked = PEOPLE[:30:2], PEOPLE[1:30:2]
    tables = [
        recall(model, [0, share], kind, people=people)
        for model, shares in {"a": (1, 0), "b": (1, 0.8)}.items()
        for people, share in ((asked, shares[0]), (unasked, shares[1]), (PEOPLE[30:], 0))
        for kind in ("question", "forward")
    ]
    table = run("extraction", tables, arms=ARMS)
    found = one(table, "b", "final_question_exact_match", "qa_heldout")
    assert (found["estimate"], found["effect"], found["n"]) == (0.8, 0.8, 15)
    assert found["effect_low"] > 0.5
    assert one(table, "b", "final_question_exact_match", "qa_train")["effect"] == 0


def test_forgetting_finds_what_is_kept_and_a_planted_exponent():
    steps = np.array([0, 10, 40, 160])
    shares = {"a": [0.8, 0.8, 0.4, 0.2], "b": [0.8] * 4}
    tables = []
    for model, early in shares.items():
        for place, (step, share) in enumerate(zip(steps, early, strict=True)):
            new = [0, 0, 0.5, 1][place]
            some = pd.concat([recall(model, [share], people=PEOPLE[:30]), recall(model, [new], people=PEOPLE[30:])])
            tables.append(some.assign(step=step))
    table = run("forgetting", tables, arms=ARMS)
    assert one(table, "a", "retention", "old")["estimate"] == pytest.approx(0.25)
    assert one(table, "b", "retention", "old")["effect"] == pytest.approx(0.75)
    # Halved whenever steps grow fourfold.
    assert one(table, "a", "forgetting_exponent", "old")["estimate"] == pytest.approx(-0.5)
    assert one(table, "b", "forgetting_exponent", "old")["estimate"] == pytest.approx(0)
    fitted = table[(table["arm"] == "a") & (table["metric"] == "power_law")]
    # Through .8 at 10, .4 at 40 and .2 at 160.
    assert dict(zip(fitted["step"], fitted["estimate"], strict=True)) == pytest.approx({10: 0.8, 40: 0.4, 160: 0.2})
    assert one(table, "a", "final_exact_match", "new")["estimate"] == 1


def test_what_was_never_known_cannot_be_kept():
    people = [recall(model, shares) for model, shares in {"a": (1, 0.5), "b": (0, 0.6), "c": (0.1, 0.2)}.items()]
    table = run("forgetting", people, arms={**ARMS, "c": ["c"]})
    for metric in ("retention", "forgetting_exponent"):
        assert np.isnan(one(table, "b", metric, "old")["estimate"])
    assert one(table, "c", "retention", "old")["estimate"] == pytest.approx(2)
    assert table.loc[(table["arm"] == "b") & (table["metric"] == "power_law"), "estimate"].isna().all()


def test_curriculum_goes_on_from_model_to_model_and_tells_depths_apart():
    def functions(model, names, kind, right, favourite, steps):
        return pd.DataFrame(
            [
                {
                    "model": model, "seed": 0, "step": step, "probe_id": f"{name}.returns.{kind}", "fact_id": f"{name}.returns",
                    "relation": "returns", "kind": kind, "target": f"<V{number}>", "candidate_correct": right,
                    "confidence": 0.7, "candidate_entropy": 0.2, "predicted_token": favourite,
                }
                for step in steps
                for number, name in enumerate(names)
            ]
        )  # fmt: skip

    tables = [
        functions("first", ["B1", "B2"], "forward", 1.0, "<V0>", [0, 10]),
        functions("first", ["C1", "C2"], "multi_hop", 0.0, "maps", [0, 10]),
        functions("second", ["B1", "B2"], "forward", 0.0, "<V0>", [0, 5]),
        functions("second", ["C1", "C2"], "multi_hop", 1.0, "<V1>", [0, 5]),
    ]
    entities = pd.DataFrame({"entity_id": ["B1", "B2", "C1", "C2"], "split": "test"})
    table = run("curriculum", tables, arms={"control": ["first"], "in-order": ["first", "second"]}, entities=entities)
    curve = table[
        (table["metric"] == "accuracy") & (table["arm"] == "in-order") & (table["group"] == "depth 0, stated")
    ]
    assert dict(zip(curve["step"], curve["estimate"], strict=True)) == {0: 1, 10: 1, 15: 0}
    assert one(table, "in-order", "final_accuracy", "depth 1, composed")["effect"] == 1
    # Of two functions whose values are V0 and V1, one is taken for the other; a verb is no value.
    assert one(table, "control", "final_wrong_value_predicted", "depth 0, stated")["estimate"] == 0.5
    assert one(table, "control", "final_wrong_value_predicted", "depth 1, composed")["estimate"] == 0
    assert one(table, "in-order", "final_wrong_value_predicted", "depth 1, composed")["estimate"] == 0.5


def scores(model, column, levels, steps, kind="forward", people=PEOPLE, **more):
    """Every probe has the same number at each step."""
    tables = [
        recall(model, [0], kind, people=people).assign(step=step, **{column: level})
        for step, level in zip(steps, levels, strict=True)
    ]
    return pd.concat(tables).assign(**more)


def test_reversal_tells_directions_apart():
    tables = [
        scores(model, "candidate_correct", [0.05, level], [0, 10], kind)
        for model, levels in {"a": (1, 0.9), "b": (1, 0.1)}.items()
        for kind, level in zip(("forward", "reverse"), levels, strict=True)
    ]
    table = run("reversal", tables, arms=ARMS)
    assert one(table, "b", "final_accuracy", "reverse")["effect"] == pytest.approx(-0.8)
    assert one(table, "b", "final_accuracy", "forward")["effect"] == 0
    assert one(table, "b", "final_accuracy", "reverse, qa_train")["n"] == 20


def test_reversal_tells_people_who_are_reversed_from_those_who_are_not():
    tables = [scores("a", "candidate_correct", [1, 1], [0, 10], kind) for kind in ("forward", "reverse")] + [
        scores("b", "candidate_correct", [1, level], [0, 10], kind, people=people)
        for kind, people, level in (
            ("forward", PEOPLE, 1),
            ("reverse", PEOPLE[::2], 0.9),
            ("reverse", PEOPLE[1::2], 0.1),
        )
    ]
    table = run("reversal", tables, arms=ARMS)
    assert one(table, "b", "final_accuracy", "reverse, qa_train")["effect"] == pytest.approx(-0.1)
    assert one(table, "b", "final_accuracy", "reverse, qa_heldout")["effect"] == pytest.approx(-0.9)
    assert one(table, "b", "final_accuracy", "reverse")["effect"] == pytest.approx(-0.5)


def test_imbalance_finds_a_planted_plateau_and_tenths_of_frequency():
    steps = np.arange(0, 101, 10)
    # Every value is as frequent as every other of four: who knows no fact has a loss of ln 4.
    long = np.log(4) / 2 * np.array([6, 4, 2, 2, 2, 2, 2, 1, 0, 0, 0])
    short = np.log(4) / 2 * np.array([6, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0])
    tables = [
        scores(model, "loss_nats", losses, steps, frequency=1).assign(
            target=lambda rows: rows["fact_id"].str[1:3].astype(int) % 4
        )
        for model, losses in {"a": long, "b": short}.items()
    ]
    # As stated, the four values are as frequent as before: 180 to 210 times of 780.
    tables[1]["frequency"] = tables[1]["fact_id"].str[1:3].astype(int)
    # The last four people, the most frequent ones, are recalled.
    tables[1]["exact_match"] = (tables[1]["frequency"] >= 36).astype(float)
    table = run("imbalance", tables, arms=ARMS)
    assert one(table, "a", "plateau_steps", "frequency weights")["estimate"] == pytest.approx(43)
    assert one(table, "a", "plateau_steps", "equal weights")["estimate"] == pytest.approx(43)
    assert one(table, "a", "plateau_end", "frequency weights")["estimate"] == pytest.approx(62)
    assert one(table, "b", "plateau_steps", "frequency weights")["effect"] == pytest.approx(-40, abs=0.2)
    loss = table[(table["arm"] == "a") & (table["metric"] == "relative_loss") & (table["group"] == "frequency weights")]
    assert dict(zip(loss["step"], loss["estimate"], strict=True)) == pytest.approx(
        dict(zip(steps, [3, 2, 1, 1, 1, 1, 1, 0.5, 0, 0, 0], strict=True))
    )
    assert one(table, "b", "final_exact_match", "decile 10")["estimate"] == 1
    assert one(table, "b", "final_exact_match", "decile 09")["estimate"] == 0
    assert not table[table["arm"] == "a"]["group"].str.startswith("decile").any()


def test_a_plateau_weighs_people_as_training_does():
    # p00 is stated three times as often as p01: who knows no fact predicts their values with ln 4/3 and ln 4.
    people, steps = ["p00", "p01"], [0, 10, 20]
    rows = pd.concat(
        scores("a", "loss_nats", losses, steps, people=[person], frequency=often, target=person)
        for person, often, losses in (("p00", 3, [2.0, 1.0, 0.0]), ("p01", 1, [2.0, 4.0, 4.0]))
    )
    table = run("imbalance", [rows, rows.assign(model="b")], arms=ARMS, entities=ENTITIES[:2])
    loss = table[(table["arm"] == "a") & (table["metric"] == "relative_loss")].set_index(["group", "step"])["estimate"]
    entropy = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)
    assert [loss["frequency weights", step] for step in steps] == pytest.approx(
        [2 / entropy, 1.75 / entropy, 1 / entropy]
    )
    alike = (np.log(4 / 3) + np.log(4)) / 2
    assert [loss["equal weights", step] for step in steps] == pytest.approx([2 / alike, 2.5 / alike, 2 / alike])
    assert len(people) == one(table, "a", "plateau_steps", "frequency weights")["n"]


def test_injection_finds_effectivity_and_a_planted_fading():
    after = np.array([1, 4, 16])

    def arm(name, exponent):
        # 5 nats before, 1 after the injection: 4 were learned; then a power of the steps since is left.
        first = scores(f"{name}1", "loss_nats", [5, 1], [0, 10], people=PEOPLE[30:])
        then = scores(f"{name}2", "loss_nats", [1, *(5 - 4 * after**exponent)], [0, *after], people=PEOPLE[30:])
        return [first, then]

    table = run("injection", [*arm("a", -0.5), *arm("b", -0.25)], arms={"a": ["a1", "a2"], "b": ["b1", "b2"]})
    assert one(table, "a", "effectivity")["estimate"] == pytest.approx(4)
    assert one(table, "a", "final_retainability")["estimate"] == pytest.approx(0.25)
    assert one(table, "b", "final_retainability")["effect"] == pytest.approx(0.25)
    assert one(table, "a", "forgetting_exponent")["estimate"] == pytest.approx(-0.5)
    assert one(table, "b", "forgetting_exponent")["estimate"] == pytest.approx(-0.25)
    curve = table[(table["metric"] == "retainability") & (table["arm"] == "a")]
    assert dict(zip(curve["step"], curve["estimate"], strict=True)) == pytest.approx({11: 1, 14: 0.5, 26: 0.25})


def test_capacity_counts_bits():
    tables = [
        scores(model, "loss_nats", [3 * np.log(2), loss], [0, 10], no_knowledge_nats=2 * np.log(2), n_parameters=80)
        for model, loss in {"a": np.log(2), "b": 0.0}.items()
    ]
    table = run("capacity", tables, arms=ARMS)
    # One of two bits of 40 facts, and both; before training less than nothing, which counts as nothing.
    assert one(table, "a", "final_bits_stored")["estimate"] == pytest.approx(40)
    assert one(table, "a", "final_bits_per_parameter")["estimate"] == pytest.approx(0.5)
    assert one(table, "a", "final_bits_fraction")["estimate"] == pytest.approx(0.5)
    assert one(table, "b", "final_bits_per_parameter")["effect"] == pytest.approx(0.5)
    start = table[(table["metric"] == "bits_per_parameter") & (table["step"] == 0)]
    assert (start["estimate"] == 0).all()


def test_hallucination_is_the_rise_of_confidence():
    tables = [
        scores(model, "confidence", levels, [0, 10, 20], kind, candidate_correct=0.25)
        for model, levels in {"a": [0.1, 0.1, 0.2], "b": [0.1, 0.5, 0.8]}.items()
        for kind in ("forward", "unseen")
    ]
    table = run("hallucination", tables, arms=ARMS)
    assert one(table, "b", "confidence_rise", "unseen")["estimate"] == pytest.approx(0.7)
    assert one(table, "b", "confidence_rise", "unseen")["effect"] == pytest.approx(0.6)
    assert one(table, "b", "overconfidence", "unseen")["estimate"] == pytest.approx(0.55)


def test_over_seeds_there_are_means_with_students_intervals():
    tables = [
        recall(model, [0, share], seed=seed)
        for model, shares in {"a": (0.2, 0.4, 0.3), "b": (0.7, 0.8, 0.9)}.items()
        for seed, share in enumerate(shares)
    ]
    table = run("learning", tables, arms=ARMS, seeds=(0, 1, 2), over="seeds")
    found = one(table, "b", "final_exact_match", seed="all")
    half = t.ppf(0.975, 2) * np.std([0.5, 0.4, 0.6], ddof=1) / np.sqrt(3)
    assert (found["n"], found["estimate"], found["interval_over"]) == (3, pytest.approx(0.8), "seeds")
    assert found["effect"] == pytest.approx(0.5)
    assert [found["effect_low"], found["effect_high"]] == pytest.approx([0.5 - half, 0.5 + half])
    assert one(table, "b", "final_exact_match", seed=1)["effect"] == pytest.approx(0.4)


def test_checkpoints_are_pooled_in_their_order_where_seeds_save_them_at_other_steps():
    tables = [recall(model, [0, 0.3, 0.6], seed=seed, step=9 + seed) for model in "ab" for seed in (0, 1, 2)]
    table = run("learning", tables, arms=ARMS, seeds=(0, 1, 2), over="seeds")
    curve = table[(table["seed"] == "all") & (table["arm"] == "b") & table["step"].notna()]
    found = curve[curve["metric"] == "exact_match"][["step", "n", "estimate"]].to_numpy().tolist()
    assert found == [[0, 3, 0], [10, 3, pytest.approx(0.3)], [20, 3, pytest.approx(0.6)]]


def test_the_same_tables_give_the_same_numbers():
    tables = [recall("a", [0, 0.3, 0.6]), recall("b", [0, 0.2, 0.9])]
    pd.testing.assert_frame_equal(run("learning", tables, arms=ARMS), run("learning", tables[::-1], arms=ARMS))


def test_a_history_has_no_step_twice():
    found = arm_history(
        ["a", "b"], 0, pd.concat([recall("a", [0, 1]), recall("b", [1, 1, 0])]), {"a": ENTITIES, "b": ENTITIES}
    )
    assert sorted(found["step"].unique()) == [0, 10, 20, 30]
    assert found.groupby("step")["stage"].unique().str[0].tolist() == [0, 0, 1, 1]
    assert len(found) == 4 * len(PEOPLE)


def test_effects_of_crossed_factors_are_those_of_an_exact_table():
    # y = .4 + .1 a + .05 b − .025 ab + 0 c + .025 abc, with −1 for low and +1 for high: effects are twice these.
    def share(a, b, c):
        return 0.4 + 0.1 * a + 0.05 * b - 0.025 * a * b + 0.025 * a * b * c

    arms = {f"{a}{b}{c}": share(*(2 * int(level) - 1 for level in (a, b, c))) for a in "01" for b in "01" for c in "01"}
    factors = {name: [arm for arm in arms if arm[place] == "1"] for place, name in enumerate("abc")}
    tables = [
        # One of the 40 people more or fewer; a hundredth less, so that none is won by rounding.
        recall(arm, [0, level + 0.025 * (seed - 1) * (arm[0] == "1") - 0.01], seed=seed)
        for arm, level in arms.items()
        for seed in (0, 1, 2)
    ]
    table = run("learning", tables, arms={arm: [arm] for arm in arms}, seeds=(0, 1, 2), over="seeds", factors=factors)
    final = table[(table["metric"] == "final_exact_match") & (table["arm"] == "all")]
    wanted = {"a": 0.2, "b": 0.1, "c": 0.0, "a:b": -0.05, "a:c": 0.0, "b:c": 0.0, "a:b:c": 0.05}
    assert dict(zip(*final[final["seed"] == 1][["factors", "estimate"]].to_numpy().T, strict=True)) == pytest.approx(
        wanted
    )
    over = final[final["seed"] == "all"].set_index("factors")
    assert over["estimate"].to_dict() == pytest.approx(wanted)
    # Only a's effect differs between seeds: .175, .2, .225.
    half = t.ppf(0.975, 2) * 0.025 / np.sqrt(3)
    assert over.loc["a", ["ci_low", "ci_high"]].tolist() == pytest.approx([0.2 - half, 0.2 + half])
    assert over.loc["b", ["ci_low", "ci_high"]].tolist() == pytest.approx([0.1, 0.1])
    # The same by least squares on levels of −1 and 1.
    levels = np.array([[2 * int(level) - 1 for level in arm] for arm in arms])
    design = np.column_stack([np.prod(levels[:, ["abc".index(f) for f in each.split(":")]], 1) for each in wanted])
    coefficients = np.linalg.lstsq(np.column_stack([np.ones(8), design]), np.array([*arms.values()]), rcond=None)[0]
    assert 2 * coefficients[1:] == pytest.approx(list(wanted.values()))


def test_an_effect_of_factors_is_resampled_person_by_person():
    # Everybody gains as much from b, whoever is drawn: the interaction and its interval are nothing.
    arms = {"00": 0.2, "10": 0.2, "01": 0.6, "11": 0.6}
    tables = [recall(arm, [0, level]) for arm, level in arms.items()]
    table = run("learning", tables, arms={arm: [arm] for arm in arms}, factors={"a": ["10", "11"], "b": ["01", "11"]})
    final = table[(table["metric"] == "final_exact_match") & (table["arm"] == "all")].set_index("factors")
    columns = ["estimate", "ci_low", "ci_high"]
    assert final.loc["a", columns].tolist() == final.loc["a:b", columns].tolist() == [0, 0, 0]
    low, estimate, high = final.loc["b", ["ci_low", "estimate", "ci_high"]]
    assert estimate == pytest.approx(0.4) and low < 0.35 and high > 0.45
