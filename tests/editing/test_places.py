"""Where to edit: every place is tried, choosers take what they think most of, and regret is against the best place."""

import numpy as np
import pandas as pd
import pytest
import torch

from factlife.config.editing import Memit, Place, Places, Requests, Values
from factlife.editing import places
from factlife.editing.editors import EDITORS
from factlife.editing.requests import EditError, from_world, probes_of_world

MEMIT = Memit(kind="memit", place=Place(layers=[0, 1]), values=Values(steps=4, contexts=0, rate=0.5, clamp=4.0))


def trace_of(effects):
    """A causal trace with an effect for each component, window, token and layer; one fact is not known."""
    rows = [
        {"fact_id": fact, "exclusion_reason": None, "known": fact == "a", "corruption": "replacement", "component": component,
         "window": window, "token_role": role, "layer": layer, "indirect_effect_logit_diff": effect if fact == "a" else 99.0}
        for (component, window, role, layer), effect in effects.items()
        for fact in "ab"
    ]  # fmt: skip
    return pd.DataFrame(rows)


def every(layers):
    return pd.DataFrame([(token, layer) for token in ("subject_last", "last") for layer in range(layers)],
                        columns=["token", "layer"])  # fmt: skip


def verdicts(right):
    """Two subjects with one probe of each scored metric; ``right``: place -> metric -> share of the two that are right."""
    rows = [
        {"token": token, "layer": layer, "edit_id": f"{subject}.r", "probe_id": f"{subject}.{metric}", "metric": metric,
         "about": f"{subject}.r", "argmax": share > number / 2, "probability": True, "generation": True}
        for (token, layer), by in right.items()
        for metric, share in by.items()
        for number, subject in enumerate(["p", "q"])
    ]  # fmt: skip
    return pd.DataFrame(rows)


GOOD = {"efficacy": 1, "paraphrase": 1, "neighbourhood": 1}
HALF = {"efficacy": 1, "paraphrase": 0.5, "neighbourhood": 1}


def test_a_place_keeps_its_number_of_layers_as_far_as_there_are_any():
    place = Place(layers=[5, 6, 7])

    assert places.at(place, "last", 4).layers == [2, 3, 4]
    assert places.at(place, "last", 1) == Place(token="last", layers=[0, 1])


def test_every_place_is_written_and_judged_and_the_model_stays(target, world):
    requests = from_world(world, Requests(count=6))
    probes = probes_of_world(requests, world)
    weights = {name: parameter.clone() for name, parameter in target.model.named_parameters()}
    settings = Places(editor="memit", edits=3)

    swept = places.sweep(target, requests, probes, MEMIT, settings)

    assert all(torch.equal(parameter, weights[name]) for name, parameter in target.model.named_parameters())
    assert [*map(tuple, swept[["token", "layer"]].drop_duplicates().to_numpy())] == [*every(3).itertuples(index=False)]
    edited = swept.loc[swept["metric"] == "efficacy", "edit_id"]
    assert edited.nunique() == 3 and edited.str.split(".").str[0].nunique() == 3
    assert not set(swept.loc[swept["metric"].isin(["recall", "same_subject"]), "about"]) & set(edited)
    few = requests.drop_duplicates("subject").head(3).reset_index(drop=True)
    here = MEMIT.model_copy(update={"place": Place(token="last", layers=[0, 1])})
    from factlife.editing.editable import applied
    from factlife.editing.evaluate import judge

    with applied(target.model, EDITORS["memit"](target, few, here, {})):
        asked = probes[probes["probe_id"].isin(few["edit_id"] + ".efficacy")]
        again = judge(target.model, target.tokenizer, asked.reset_index(drop=True))
    found = swept[(swept["token"] == "last") & (swept["layer"] == 1) & (swept["metric"] == "efficacy")]
    assert found["argmax"].tolist() == again["argmax"].tolist()


def test_a_place_that_cannot_be_written_is_left_out(target, world):
    requests = from_world(world, Requests(count=2))
    target.moments[1] = torch.zeros(48, 48, dtype=torch.float64)

    swept = places.sweep(target, requests, probes_of_world(requests, world), MEMIT.model_copy(
        update={"place": Place(layers=[0])}), Places(editor="memit", tokens=["last"]))  # fmt: skip

    assert set(swept["layer"]) == {0, 2}


def test_choosers_take_what_they_think_most_of():
    trace = trace_of({
        ("mlp", 1, "subject_last", 0): 3.0, ("mlp", 1, "last", 2): 2.0,
        ("mlp", 3, "last", 1): 5.0, ("mlp", 3, "subject_last", 0): 1.0,
        ("residual", 1, "subject_last", 0): 9.0, ("residual_mlp_frozen", 1, "subject_last", 0): 8.5,
        ("residual", 1, "last", 1): 4.0, ("residual_mlp_frozen", 1, "last", 1): 1.0,
    })  # fmt: skip

    chosen = places.choose(places.effects(trace, every(5), 0.25, 5)).set_index("chooser")

    assert chosen["token"].to_dict() == {
        "depth": "subject_last", "tracing": "subject_last", "tracing-window": "last", "frozen": "last",
    }  # fmt: skip
    assert chosen["layer"].to_dict() == {"depth": 1, "tracing": 0, "tracing-window": 1, "frozen": 1}
    assert chosen["effect"]["tracing"] == 3.0 and chosen["effect"]["frozen"] == 3.0
    assert places.choose(places.effects(None, every(5), 0.25, 5))["chooser"].tolist() == ["depth"]


def test_scores_are_harmonic_means_and_regret_is_against_the_best_place():
    swept = verdicts({("subject_last", 0): HALF, ("last", 0): GOOD, ("last", 1): HALF})
    found = pd.DataFrame({
        "chooser": ["tracing"] * 3 + ["depth"] * 3, "token": ["subject_last", "last", "last"] * 2,
        "layer": [0, 0, 1] * 2, "effect": [3.0, 2.0, 1.0, 0.0, 5.0, 1.0],
    })  # fmt: skip

    table = places.summarise(swept, found, resamples=50)

    value = table.set_index(["chooser", "metric"])["estimate"]
    score = table[(table["chooser"] == "each") & (table["metric"] == "score")].set_index(["token", "layer"])["estimate"]
    half = 3 / (1 / 1 + 1 / 0.5 + 1 / 1)
    assert score.to_dict() == {("subject_last", 0): half, ("last", 0): 1.0, ("last", 1): half}
    assert value["tracing", "regret"] == pytest.approx(1 - half) and value["depth", "regret"] == 0
    assert value["tracing", "chosen"] == 3.0
    assert value["chance", "score"] == pytest.approx((1 + 2 * half) / 3)
    assert value["tracing", "rank_correlation"] == pytest.approx(0.0)
    assert value["depth", "rank_correlation"] == pytest.approx(np.sqrt(3) / 2)
    best = table[(table["chooser"] == "sweep") & (table["metric"] == "chosen")].iloc[0]
    assert (best["token"], best["layer"]) == ("last", 0)


def test_the_sweep_is_judged_on_subjects_that_it_did_not_choose_with():
    # p is served by the one place only, q by the other: what is best on one half is worst on the other.
    one, other = (
        verdicts({place: GOOD}).assign(argmax=lambda rows, who=who: rows["edit_id"] == f"{who}.r")
        for place, who in ((("last", 0), "p"), (("last", 1), "q"))
    )

    assert places._halves(pd.concat([one, other])) == 0.0


def test_an_editor_goes_where_its_chooser_says():
    swept = verdicts({("subject_last", 0): HALF, ("last", 2): GOOD})
    table = places.summarise(swept, places.effects(None, every(3), 0.0, 3), resamples=5)
    by = {by: Place(layers=[7, 8], by=by) for by in ("given", "sweep", "depth", "frozen")}

    assert places.resolve(by["given"], table) == by["given"]
    assert places.resolve(by["sweep"], table) == Place(token="last", layers=[1, 2])
    assert places.resolve(by["depth"], table) == Place(token="subject_last", layers=[0])
    with pytest.raises(EditError, match="no place was chosen by `frozen`"):
        places.resolve(by["frozen"], table)


def test_without_a_sweep_choosers_still_choose(target):
    swept, table = places.find(target, None, None, None, Places(), trace=None)

    assert swept.empty and table[["chooser", "token", "layer"]].to_numpy().tolist() == [["depth", "subject_last", 0]]
    assert places.named(table, model="m", seed=0, editor=None).columns[:3].tolist() == ["model", "seed", "editor"]
