"""Edit sites: every site is edited, criteria choose the largest predicted effect, and regret is against the best site."""

import numpy as np
import pandas as pd
import pytest
import torch

from factlife.config.editing import EditRequests, EditSite, Memit, SiteSweep, TargetVectorSettings
from factlife.editing import sites
from factlife.editing.editors import EDITORS
from factlife.editing.requests import EditError, probes_from_world, requests_from_world

MEMIT = Memit(
    kind="memit",
    **dict(EditSite(layers=[0, 1])),
    values=TargetVectorSettings(
        v_num_grad_steps=4, n_context_templates=0, units="relative", v_lr=0.5, clamp_norm_factor=4.0
    ),
)


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
                        columns=["fact_token", "layer"])  # fmt: skip


def verdicts(right):
    """Two subjects with one probe of each scored metric; ``right``: site -> metric -> share of the two that are right."""
    rows = [
        {"fact_token": token, "layer": layer, "edit_id": f"{subject}.r", "probe_id": f"{subject}.{metric}", "metric": metric,
         "fact_id": f"{subject}.r", "argmax": share > number / 2, "probability": True, "generation": True}
        for (token, layer), by in right.items()
        for metric, share in by.items()
        for number, subject in enumerate(["p", "q"])
    ]  # fmt: skip
    return pd.DataFrame(rows)


GOOD = {"efficacy": 1, "paraphrase": 1, "neighbourhood": 1}
HALF = {"efficacy": 1, "paraphrase": 0.5, "neighbourhood": 1}


def test_a_site_keeps_its_number_of_layers_as_far_as_there_are_any():
    site = EditSite(layers=[5, 6, 7])

    assert sites.site_at(site, "last", 4).layers == [2, 3, 4]
    assert sites.site_at(site, "last", 1) == EditSite(fact_token="last", layers=[0, 1])


def test_every_site_is_edited_and_evaluated_and_the_model_is_restored(target, world):
    requests = requests_from_world(world, EditRequests(count=6))
    probes = probes_from_world(requests, world)
    weights = {name: parameter.clone() for name, parameter in target.model.named_parameters()}
    settings = SiteSweep(editor="memit", n_edits=3)

    swept = sites.sweep_sites(target, requests, probes, MEMIT, settings)

    assert all(torch.equal(parameter, weights[name]) for name, parameter in target.model.named_parameters())
    assert [*map(tuple, swept[["fact_token", "layer"]].drop_duplicates().to_numpy())] == [
        *every(3).itertuples(index=False)
    ]
    edited = swept.loc[swept["metric"] == "efficacy", "edit_id"]
    assert edited.nunique() == 3 and edited.str.split(".").str[0].nunique() == 3
    assert not set(swept.loc[swept["metric"].isin(["recall", "same_subject"]), "fact_id"]) & set(edited)
    few = requests.drop_duplicates("subject").head(3).reset_index(drop=True)
    here = MEMIT.model_copy(update=EditSite(fact_token="last", layers=[0, 1]).model_dump())
    from factlife.editing.editable import apply_deltas
    from factlife.editing.evaluate import evaluate_probes

    with apply_deltas(target.model, EDITORS["memit"](target, few, here, {})):
        asked = probes[probes["probe_id"].isin(few["edit_id"] + ".efficacy")]
        again = evaluate_probes(target.model, target.tokenizer, asked.reset_index(drop=True))
    found = swept[(swept["fact_token"] == "last") & (swept["layer"] == 1) & (swept["metric"] == "efficacy")]
    assert found["argmax"].tolist() == again["argmax"].tolist()


def test_a_site_where_the_editor_fails_is_left_out(target, world):
    requests = requests_from_world(world, EditRequests(count=2))
    target.covariance[1] = torch.zeros(48, 48, dtype=torch.float64)

    swept = sites.sweep_sites(target, requests, probes_from_world(requests, world), MEMIT.model_copy(
        update=EditSite(layers=[0]).model_dump()), SiteSweep(editor="memit", fact_tokens=["last"]))  # fmt: skip

    assert set(swept["layer"]) == {0, 2}


def test_criteria_choose_the_largest_predicted_effect():
    trace = trace_of({
        ("mlp", 1, "subject_last", 0): 3.0, ("mlp", 1, "last", 2): 2.0,
        ("mlp", 3, "last", 1): 5.0, ("mlp", 3, "subject_last", 0): 1.0,
        ("residual", 1, "subject_last", 0): 9.0, ("residual_mlp_frozen", 1, "subject_last", 0): 8.5,
        ("residual", 1, "last", 1): 4.0, ("residual_mlp_frozen", 1, "last", 1): 1.0,
    })  # fmt: skip

    chosen = sites.choose_sites(sites.predict_effects(trace, every(5), 0.25, 5)).set_index("choose_by")

    assert chosen["fact_token"].to_dict() == {
        "depth": "subject_last", "tracing": "subject_last", "tracing-window": "last", "tracing-mlp-frozen": "last",
    }  # fmt: skip
    assert chosen["layer"].to_dict() == {"depth": 1, "tracing": 0, "tracing-window": 1, "tracing-mlp-frozen": 1}
    assert chosen["effect"]["tracing"] == 3.0 and chosen["effect"]["tracing-mlp-frozen"] == 3.0
    assert sites.choose_sites(sites.predict_effects(None, every(5), 0.25, 5))["choose_by"].tolist() == ["depth"]


def test_scores_are_harmonic_means_and_regret_is_against_the_best_site():
    swept = verdicts({("subject_last", 0): HALF, ("last", 0): GOOD, ("last", 1): HALF})
    found = pd.DataFrame({
        "choose_by": ["tracing"] * 3 + ["depth"] * 3, "fact_token": ["subject_last", "last", "last"] * 2,
        "layer": [0, 0, 1] * 2, "effect": [3.0, 2.0, 1.0, 0.0, 5.0, 1.0],
    })  # fmt: skip

    table = sites.summarise_sites(swept, found, resamples=50)

    value = table.set_index(["choose_by", "metric"])["estimate"]
    score = table[(table["choose_by"] == "every_site") & (table["metric"] == "score")].set_index(
        ["fact_token", "layer"]
    )["estimate"]
    half = 3 / (1 / 1 + 1 / 0.5 + 1 / 1)
    assert score.to_dict() == {("subject_last", 0): half, ("last", 0): 1.0, ("last", 1): half}
    assert value["tracing", "regret"] == pytest.approx(1 - half) and value["depth", "regret"] == 0
    assert value["tracing", "selection_score"] == 3.0
    assert value["chance", "score"] == pytest.approx((1 + 2 * half) / 3)
    assert value["tracing", "rank_correlation"] == pytest.approx(0.0)
    assert value["depth", "rank_correlation"] == pytest.approx(np.sqrt(3) / 2)
    best = table[(table["choose_by"] == "sweep") & (table["metric"] == "selection_score")].iloc[0]
    assert (best["fact_token"], best["layer"]) == ("last", 0)


def test_the_sweep_is_scored_on_held_out_subjects():
    # p is served by the one site only, q by the other: what is best on one half is worst on the other.
    one, other = (
        verdicts({site: GOOD}).assign(argmax=lambda rows, who=who: rows["edit_id"] == f"{who}.r")
        for site, who in ((("last", 0), "p"), (("last", 1), "q"))
    )

    assert sites._cross_validated_score(pd.concat([one, other])) == 0.0


def test_an_editor_uses_the_site_that_its_criterion_chose():
    swept = verdicts({("subject_last", 0): HALF, ("last", 2): GOOD})
    table = sites.summarise_sites(swept, sites.predict_effects(None, every(3), 0.0, 3), resamples=5)
    by = {by: EditSite(layers=[7, 8], choose_by=by) for by in ("config", "sweep", "depth", "tracing-mlp-frozen")}

    assert sites.resolve_site(by["config"], table) == by["config"]
    assert sites.resolve_site(by["sweep"], table) == EditSite(fact_token="last", layers=[1, 2])
    assert sites.resolve_site(by["depth"], table) == EditSite(fact_token="subject_last", layers=[0])
    with pytest.raises(EditError, match="no site was chosen by `tracing-mlp-frozen`"):
        sites.resolve_site(by["tracing-mlp-frozen"], table)


def test_without_a_sweep_criteria_still_choose(target):
    swept, table = sites.compare_sites(target, None, None, None, SiteSweep(), trace=None)

    assert swept.empty and table[["choose_by", "fact_token", "layer"]].to_numpy().tolist() == [
        ["depth", "subject_last", 0]
    ]
    assert sites.add_keys(table, model="m", seed=0, editor=None).columns[:3].tolist() == ["model", "seed", "editor"]
