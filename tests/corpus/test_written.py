"""What a language model writes is kept, checked and counted; a stub stands for the API."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest

from factlife.config.worlds import PeopleWorld
from factlife.config.written import WrittenCorpus
from factlife.corpus import CorpusError
from factlife.corpus.written import AnswerCache, TextCheck, api_writer, generate_documents
from factlife.world import build_world

WORLD = build_world(
    PeopleWorld(
        kind="people", people=6, unseen=2, values=4, regions=0, panel=0, relations=["birth_city", "major"],
        names={"style": "ordinary"},
    )
)  # fmt: skip
NAMES = dict(zip(WORLD.entities["entity_id"], WORLD.entities["name"], strict=True))
SETTINGS = WrittenCorpus(
    kind="written", world="people", writer={"kind": "anthropic", "model": "stub"}, answers="answers.jsonl",
    documents_per_subject=2, attempts=3, temperature=0.5,
)  # fmt: skip


def truth(prompt):
    """A text that states the facts of a prompt, as a good writer would."""
    name = prompt.split("facts about ")[1].split(",")[0]
    values = [line.split(": ")[1] for line in prompt.splitlines() if line.startswith("- ")]
    return f"{name}, it is said, chose {values[1]}.\n\nIn {values[0]} began the life of {name}."


@pytest.fixture
def server(monkeypatch):
    """An API that answers with the truth, but at first refuses to write a subject's first document."""
    asked, seen = [], set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(request | {"path": self.path, "key": self.headers["authorization"]})
            prompt = request["messages"][0]["content"]
            refuses = "Version 1." in prompt and prompt not in seen
            seen.add(prompt)
            text = "I would rather not." if refuses else truth(prompt)
            message = {
                "id": "m", "type": "message", "role": "assistant", "model": "stub", "stop_reason": "end_turn",
                "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
                "content": [{"type": "text", "text": text}],
            }  # fmt: skip
            body = json.dumps(message).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-of-a-test")
    yield asked
    served.shutdown()


def test_answers_are_checked_counted_kept_and_replayed_without_a_key(server, tmp_path, monkeypatch):
    path = tmp_path / "kept/answers.jsonl"
    answers = AnswerCache(path, api_writer(SETTINGS))
    documents, verdicts = generate_documents(WORLD, SETTINGS, answers)
    answers.finish("mark")

    taught = WORLD.facts[WORLD.facts["seen"]]
    subjects = taught["entity_id"].unique()
    assert documents["entity_ids"].str[0].value_counts().to_dict() == dict.fromkeys(subjects, 2)
    for row in documents.itertuples():
        facts = taught[taught["entity_id"] == row.entity_ids[0]]
        assert sorted(row.fact_ids) == sorted(facts["fact_id"])
        assert all(value in row.text for value in facts["value"]) and NAMES[row.entity_ids[0]] in row.text
        assert "\n" not in row.text
    counts = verdicts["verdict"].value_counts()
    assert counts.to_dict() == {"accepted": 12, "missing": 6}
    assert len(server) == 18
    assert {request["key"] for request in server} == {"Bearer secret-of-a-test"}
    assert {(request["model"], request["temperature"]) for request in server} == {("stub", 0.5)}
    assert "secret-of-a-test" not in path.read_text()
    assert json.loads(path.read_text().splitlines()[-1]) == {"complete": "mark"}

    monkeypatch.delenv("ANTHROPIC_API_KEY")
    requests = len(server)
    again = AnswerCache(path, api_writer(SETTINGS))
    for first, second in zip((documents, verdicts), generate_documents(WORLD, SETTINGS, again), strict=True):
        pd.testing.assert_frame_equal(first, second)
    assert len(server) == requests


def test_a_missing_answer_without_a_key_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(CorpusError, match="does not contain all answers, and ANTHROPIC_API_KEY is not set"):
        generate_documents(WORLD, SETTINGS, AnswerCache(tmp_path / "answers.jsonl", api_writer(SETTINGS)))


def test_a_writer_that_never_states_the_facts_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match="no answer passed the check"):
        generate_documents(WORLD, SETTINGS, AnswerCache(tmp_path / "answers.jsonl", lambda prompt: "Well."))


def test_what_is_not_accepted_in_all_attempts_is_left_out(tmp_path):
    shy = NAMES[WORLD.facts.loc[WORLD.facts["seen"], "entity_id"].iloc[0]]
    answers = AnswerCache(tmp_path / "a.jsonl", lambda prompt: "" if shy in prompt else truth(prompt))
    documents, verdicts = generate_documents(WORLD, SETTINGS, answers)
    assert len(documents) == 10
    assert verdicts["verdict"].value_counts().to_dict() == {"accepted": 10, "missing": 6}


def test_half_a_line_of_a_killed_job_is_asked_for_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    asked = []
    AnswerCache(path, lambda prompt: "one")({"prompt": "a"})
    path.write_text(path.read_text() + '{"request": {"prompt": "b"}, "answ')
    answers = AnswerCache(path, lambda prompt: asked.append(prompt) or "two")
    assert [answers({"prompt": "a"}), answers({"prompt": "b"})] == ["one", "two"] and asked == ["b"]
    assert [json.loads(line)["answer"] for line in path.read_text().splitlines()] == ["one", "two"]


def test_verdicts():
    world = WORLD
    facts = world.facts[world.facts["entity_id"] == world.facts["entity_id"].iloc[0]]
    name, values = NAMES[facts["entity_id"].iloc[0]], facts["value"].tolist()
    other = next(value for value in world.facts["value"] if value not in values)
    somebody = next(called for called in NAMES.values() if called != name)
    check, text = TextCheck(world), f"{name}: {values[0]}, {values[1]}."
    assert check(text, name, values) == ("accepted", "")
    assert check(text.replace(values[1], "nothing"), name, values)[0] == "missing"
    assert check(text.replace(name, "She"), name, values) == ("missing", name)
    assert check(f"{text} Not {other}.", name, values) == ("other_value", other)
    assert check(f"{text} So did {somebody}.", name, values) == ("other_name", somebody)
    # A part of a word is no mention.
    assert check(f"{text} {other}ish", name, values) == ("accepted", "")


def test_of_names_inside_one_another_the_longest_counts():
    check = TextCheck(WORLD)
    check.names, check.values, check.longest = {("Ann",)}, {("York",), ("New", "York")}, 2
    assert check("Ann left New York.", "Ann", ["New York"]) == ("accepted", "")
    assert check("Ann left New York.", "Ann", ["York"]) == ("missing", "York")
