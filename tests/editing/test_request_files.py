"""Public layouts, record by record, and what is dropped of them."""

import json
import logging

import numpy as np
import pandas as pd
import pytest

from factlife.config import ConfigError, read_config
from factlife.config.editing import EditRequests
from factlife.editing.request_files import read_request_file, select_requests
from factlife.editing.requests import EditError, usable_probes

REWRITE = {
    "prompt": "The mother tongue of {} is",
    "relation_id": "P103",
    "subject": "Danielle Darrieux",
    "target_new": {"str": "English", "id": "Q1860"},
    "target_true": {"str": "French", "id": "Q150"},
}
COUNTERFACT = {
    "case_id": 0,
    "requested_rewrite": REWRITE,
    "paraphrase_prompts": ["Danielle Darrieux, a native", "The native language of Danielle Darrieux is"],
    "neighborhood_prompts": ["The mother tongue of Jacques is", "Jean, speaker of"],
    "generation_prompts": ["Where Danielle Darrieux is from, people speak"],
}
EASYEDIT = {
    "case_id": 0,
    "prompt": "The mother tongue of Danielle Darrieux is",
    "target_new": "English",
    "subject": "Danielle Darrieux",
    "ground_truth": "French",
    "rephrase_prompt": "Danielle Darrieux, a native",
    "locality_prompt": "Jean, speaker of",
    "locality_ground_truth": "French",
}
ZSRE = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "cond": "Trinity College >> University of Michigan || ...",
}
WIKIBIGEDIT = {
    "tag": "update",
    "subject": "Lazarus Chakwera",
    "update": "What position does Lazarus Chakwera hold?",
    "rephrase": "Which office is held by Lazarus Chakwera?",
    "personas": "Yo, what office has Lazarus Chakwera got?",
    "ans": "President of Malawi",
    "loc": "What position does Ann hold?",
    "loc_ans": "Mayor",
    "mhop": "Which country has the office that Lazarus Chakwera holds?",
    "mhop_ans": "Malawi",
}


def written(tmp_path, records, name="requests.json"):
    path = tmp_path / name
    if name.endswith(".parquet"):
        pd.DataFrame(records).to_parquet(path)
    else:
        lines = "\n".join(map(json.dumps, records)) if name.endswith("l") else json.dumps(records)
        path.write_text(lines)
    return path


def asked(probes, metric):
    rows = probes[probes["metric"] == metric]
    return list(zip(rows["prompt"], rows["target"], rows["alternative"], strict=True))


@pytest.mark.parametrize("name", ["requests.json", "requests.jsonl", "requests.parquet"])
def test_counterfact(tmp_path, name):
    requests, probes = read_request_file(
        EditRequests(kind="counterfact", path="", count=1), written(tmp_path, [COUNTERFACT], name)
    )

    one = requests.iloc[0]
    assert (one["subject"], one["relation"], one["target_new"], one["target_true"]) == (
        "Danielle Darrieux", "P103", "English", "French",
    )  # fmt: skip
    assert one["prompt"] == "The mother tongue of Danielle Darrieux is"
    assert list(one["generation_prompts"]) == COUNTERFACT["generation_prompts"]
    assert asked(probes, "efficacy") == [(one["prompt"], "English", "French")]
    assert asked(probes, "paraphrase") == [
        (prompt, "English", "French") for prompt in COUNTERFACT["paraphrase_prompts"]
    ]
    near = COUNTERFACT["neighborhood_prompts"]
    assert asked(probes, "neighbourhood") == [(prompt, "French", "English") for prompt in near]
    assert asked(probes, "distractor")[0] == (f"{one['prompt']} English. {near[0]}", "French", "English")
    assert probes["probe_id"].is_unique


def test_the_multi_form_may_hold_several_rewrites_and_answers_of_neighbours(tmp_path):
    second = REWRITE | {"subject": "Jean", "prompt": "{} speaks", "relation_id": "P1412"}
    record = COUNTERFACT | {
        "requested_rewrite": [REWRITE, second],
        "neighborhood_prompts": [{"prompt": "Ann speaks", "target": "Welsh"}],
    }
    settings = EditRequests(kind="multi-counterfact", path="", count=2)

    requests, probes = read_request_file(settings, written(tmp_path, [record]))

    assert requests["prompt"].tolist() == ["The mother tongue of Danielle Darrieux is", "Jean speaks"]
    assert asked(probes, "neighbourhood") == [("Ann speaks", "Welsh", "")] * 2


def test_easyedit(tmp_path):
    requests, probes = read_request_file(EditRequests(kind="easyedit", path="", count=1), written(tmp_path, [EASYEDIT]))

    one = requests.iloc[0]
    assert (one["relation"], one["target_new"], one["target_true"]) == (
        "The mother tongue of {} is",
        "English",
        "French",
    )
    assert asked(probes, "paraphrase") == [("Danielle Darrieux, a native", "English", "French")]
    assert asked(probes, "neighbourhood") == [("Jean, speaker of", "French", "English")]


def test_zsre_with_the_true_answer_or_the_alternative(tmp_path):
    path = written(tmp_path, [ZSRE])

    true, probes = read_request_file(EditRequests(kind="zsre", path="", count=1), path)
    other, probes_other = read_request_file(EditRequests(kind="zsre", path="", count=1, zsre_target="alt"), path)

    assert true[["target_new", "target_true"]].to_numpy().tolist() == [["Illinois Institute of Technology", ""]]
    assert other[["target_new", "target_true"]].to_numpy().tolist() == [
        ["University of Michigan", "Illinois Institute of Technology"]
    ]
    assert asked(probes, "neighbourhood") == [(ZSRE["loc"] + "?", "Hugo Weaving", "")]
    assert asked(probes_other, "paraphrase") == [
        (ZSRE["rephrase"], "University of Michigan", "Illinois Institute of Technology")
    ]


def test_wikibigedit_and_what_records_may_lack(tmp_path):
    bare = {key: WIKIBIGEDIT[key] for key in ("subject", "update", "ans")} | {"mhop": None, "mhop_ans": np.nan}
    path = written(tmp_path, [WIKIBIGEDIT, bare], "requests.parquet")

    requests, probes = read_request_file(EditRequests(kind="wikibigedit", path="", count=2), path)

    assert requests["target_new"].tolist() == ["President of Malawi"] * 2
    assert asked(probes, "multi_hop") == [(WIKIBIGEDIT["mhop"], "Malawi", "")]
    assert asked(probes, "persona") == [(WIKIBIGEDIT["personas"], "President of Malawi", "")]
    assert probes[probes["edit_id"] == requests["edit_id"].iloc[1]]["metric"].tolist() == ["efficacy"]


def test_what_cannot_be_used_is_counted_and_not_asked(tmp_path, tokenizer, world, caplog):
    name = world.entities["name"].iloc[0]

    def record(subject, prompt, new, old):
        return EASYEDIT | {"subject": subject, "prompt": prompt, "target_new": new, "ground_truth": old}

    values = [value for value in world.facts["value"].unique() if len(value.split()) == 1][:3]
    good = record(name, f"{name} was born in", values[0], values[1])
    records = [
        good,
        record(name, "Nobody was born in", values[0], values[1]),
        record(name, f"{name} was born in", values[2], values[1]),
        record(name, f"{name} works in", " ", values[1]),
    ]
    settings = EditRequests(kind="easyedit", path="", count=9)

    with caplog.at_level(logging.WARNING):
        requests, probes = select_requests(settings, tokenizer, world=world, path=written(tmp_path, records))

    assert requests["dropped"].tolist() == [
        "",
        "the subject is not in the prompt",
        "another request has this subject and relation",
        "the target is empty",
    ]
    assert set(probes["edit_id"]) == {requests["edit_id"].iloc[0]}
    assert "has only 4 of the 9 requests" in caplog.text and "1 of 4 requests are dropped" in caplog.text


def test_neighbours_that_are_edited_themselves_are_left_out(tmp_path):
    near = COUNTERFACT["neighborhood_prompts"][0]
    second = COUNTERFACT | {"requested_rewrite": REWRITE | {"subject": "Jacques"}, "neighborhood_prompts": []}
    requests, probes = read_request_file(
        EditRequests(kind="counterfact", path="", count=2), written(tmp_path, [COUNTERFACT, second])
    )

    both = usable_probes(probes, set(requests["edit_id"]), set(requests["edit_id"]))
    alone = usable_probes(probes, set(requests["edit_id"][:1]), set(requests["edit_id"][:1]))

    assert near not in [prompt for prompt, *_ in asked(both, "neighbourhood")]
    assert near in [prompt for prompt, *_ in asked(alone, "neighbourhood")]


def test_requests_about_one_subject_know_of_each_other(tmp_path):
    other = EASYEDIT | {"prompt": "Danielle Darrieux lives in", "target_new": "Rome", "ground_truth": "Paris"}

    requests, _ = read_request_file(
        EditRequests(kind="easyedit", path="", count=2), written(tmp_path, [EASYEDIT, other])
    )

    assert requests["entity_id"].nunique() == 1
    assert [list(found) for found in requests["related_prompts"]] == [[other["prompt"]], [EASYEDIT["prompt"]]]


def test_snippets_are_texts_about_the_new_value(tmp_path):
    snippets = tmp_path / "attribute_snippets.json"
    found = {"Q1860": [{"name": "Ann", "text": "Ann speaks English."}], "Q150": [{"name": "Jean", "text": "no"}]}
    snippets.write_text(json.dumps([{"relation_id": "P103", "samples": found}]))

    requests, _ = read_request_file(
        EditRequests(kind="counterfact", path="", count=1), written(tmp_path, [COUNTERFACT]), snippets
    )

    assert list(requests["reference_texts"].iloc[0]) == ["Ann speaks English."]


def test_a_wrong_layout_or_file_is_named(tmp_path):
    with pytest.raises(EditError, match=r"does not have the layout zsre: a record lacks 'answers'"):
        read_request_file(EditRequests(kind="zsre", path="", count=1), written(tmp_path, [EASYEDIT]))
    (tmp_path / "cut.json").write_text('[{"a": 1}, {')
    with pytest.raises(EditError, match=r"cut.json cannot be read as a JSON list"):
        read_request_file(EditRequests(kind="zsre", path="", count=1), tmp_path / "cut.json")
    with pytest.raises(EditError, match="holds no records"):
        read_request_file(EditRequests(kind="zsre", path="", count=1), written(tmp_path, []))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "zsre"}, "need either `path` or `dataset`"),
        ({"kind": "zsre", "dataset": "a/b"}, "revision is missing"),
        ({"path": "a.json"}, "name the file's layout"),
    ],
)
def test_what_contradicts_itself_is_said_before_any_job(given, said):
    config = {
        "run": {"models": ["m"]},
        "corpora": {"c": {"kind": "prose"}},
        "models": {
            "m": {
                "source": {"kind": "folder", "path": "."},
                "world": "countries",
                "stages": ["editing"],
                "editing": {"covariance": "c", "requests": given, "editors": ["memit"]},
            }
        },
        "worlds": {"countries": {"kind": "countries"}},
        "covariances": {"c": {"corpus": "c"}},
    }
    with pytest.raises(ConfigError, match=said):
        read_config(config)
