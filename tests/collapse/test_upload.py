"""Uploading to a hub of our own: what arrives, and that nothing else happens where it does not answer."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest

from factlife.collapse import GenerationKey
from factlife.collapse.upload import model_card, repository_card, upload_results
from factlife.config.collapse import CollapseArm, HubUpload

SECRET = "hf_verysecrettoken"
ARM = CollapseArm(synthetic_fraction=0.5, documents=30, training={"corpus": "people"})
KEY = GenerationKey("m", "half", 1, 2)
ROWS = [("recall", "all", 0.75), ("recall", "tail", 0.5), ("perplexity", "all", 3.25)]
SUMMARY = pd.DataFrame(
    [
        {"model": "m", "arm": "half", "seed": "1", "generation": 2, "group": group, "metric": metric, "estimate": value}
        for metric, group, value in ROWS
    ]
)


@pytest.fixture
def hub():
    """Keeps repositories and committed files; commits fail while it is ``down`` and are answered with ``answer`` then."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.server.tokens.add(self.headers["Authorization"])
            if self.path == "/api/repos/create":
                self.server.repositories.append(json.loads(body))
                self.reply({"url": f"{self.server.address}/me/mine", "name": "me/mine", "id": "me/mine"})
            elif self.path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                self.reply(
                    {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
                )
            elif "/commit/" in self.path:
                lines = [json.loads(line) for line in body.splitlines()]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                if self.server.down:
                    self.server.down -= 1
                    return self.reply({}, 503)
                if self.server.answer == 200:
                    self.server.commits.append((lines[0]["value"]["summary"], files))
                number = f"{len(self.server.commits):040d}"
                self.reply(
                    {"commitOid": number, "commitUrl": f"{self.server.address}/me/mine/commit/{number}"},
                    self.server.answer,
                )
            else:
                self.reply({}, 404)

        def do_GET(self):
            self.reply({"id": "me/mine", "sha": "0" * 40, "siblings": []})

        def reply(self, value, status=200):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.repositories, server.commits, server.tokens, server.answer, server.down = [], [], set(), 200, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def made(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    SUMMARY.to_csv(tmp_path / "collapse.csv", index=False)
    return {KEY: tmp_path / "model"}, [tmp_path / "collapse.csv"]


def test_models_arrive_with_cards_and_tables_after_them(hub, made):
    models, tables = made

    done = upload_results(
        HubUpload(repo_id="me/mine", endpoint=hub.address), models, tables, {"m": {"half": ARM}}, SECRET
    )

    assert done == {"repo_id": "me/mine", "commits": [f"{1:040d}", f"{2:040d}"], "failed": ""}
    assert [one["visibility"] for one in hub.repositories] == ["private"]
    (first, model), (second, rest) = hub.commits
    assert (first, second) == ("m, half, seed 1, generation 2", "tables")
    place = "m/half/seed-1/generation-2"
    assert set(model) == {f"{place}/{name}" for name in ("config.json", "model.safetensors", "README.md")}
    assert model[f"{place}/model.safetensors"] == b"weights"
    assert model[f"{place}/README.md"].decode() == model_card(KEY, ARM, SUMMARY)
    assert rest == {
        "tables/collapse.csv": tables[0].read_bytes(),
        "README.md": repository_card(models, SUMMARY).encode(),
    }
    assert hub.tokens == {f"Bearer {SECRET}"}


def test_cards_say_what_was_learnt_and_measured():
    text = model_card(KEY, ARM, SUMMARY)

    assert text.startswith("---\nlibrary_name: transformers\n")
    assert (
        "# m, half, seed 1, generation 2\n\nGeneration 2 of a chain of language models that started from `m`," in text
    )
    assert "trained on 30 new documents, 50% of them generated by the previous generation (mode `replace`" in text
    assert "| facts recalled | 0.750 |\n| least frequent third recalled | 0.500 |\n" in text
    assert "| 0.750 | 0.500 | nan | 3.250 | nan |" in repository_card({KEY: None}, SUMMARY)


def test_cards_of_the_same_arm_on_another_model_have_their_own_numbers():
    other = SUMMARY.assign(model="small", estimate=SUMMARY["estimate"] / 2)
    text = model_card(KEY._replace(model="small"), ARM, pd.concat([SUMMARY, other]))
    assert "started from `small`" in text
    assert "| facts recalled | 0.375 |" in text


@pytest.mark.parametrize(("failures", "commits"), [(0, 2), (3, 2), (4, 0)])
def test_a_hub_that_is_down_is_asked_again_a_few_times(hub, made, monkeypatch, failures, commits):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    hub.down = failures

    done = upload_results(HubUpload(repo_id="me/mine", endpoint=hub.address), *made, {"m": {"half": ARM}}, SECRET)

    assert len(done["commits"]) == len(hub.commits) == commits
    assert waited == [2, 10, 60][:failures]
    assert ("503" in done["failed"]) == (commits == 0)


@pytest.mark.parametrize("trouble", ["refused", "nobody"])
def test_trouble_changes_nothing_and_tells_no_secret(hub, made, capfd, caplog, monkeypatch, trouble):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    hub.answer = 403
    endpoint = hub.address if trouble == "refused" else "http://127.0.0.1:1"

    done = upload_results(HubUpload(repo_id="me/mine", endpoint=endpoint), *made, {"m": {"half": ARM}}, SECRET)

    assert done["commits"] == []
    assert done["failed"]
    # What is forbidden stays so.
    assert waited == ([] if trouble == "refused" else [2, 10, 60])
    assert SECRET not in "".join([done["failed"], caplog.text, *capfd.readouterr()])
