"""Uploading to a hub of our own: what arrives, and that nothing else happens where it does not answer."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest

from factlife.collapse.upload import card, overview, upload
from factlife.config.collapse import Arm, Upload

SECRET = "hf_verysecrettoken"
ARM = Arm(synthetic_share=0.5, documents=30, training={"corpus": "people"})
ROWS = [("recall", "all", 0.75), ("recall", "tail", 0.5), ("perplexity", "all", 3.25)]
SUMMARY = pd.DataFrame(
    [
        {"arm": "half", "seed": "1", "generation": 2, "group": group, "metric": metric, "estimate": value}
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
    return {("half", 1, 2): tmp_path / "model"}, [tmp_path / "collapse.csv"]


def test_models_arrive_with_cards_and_tables_after_them(hub, made):
    models, tables = made

    done = upload(Upload(repo_id="me/mine", endpoint=hub.address), models, tables, {"half": ARM}, SECRET)

    assert done == {"repository": "me/mine", "commits": [f"{1:040d}", f"{2:040d}"], "failed": ""}
    assert [one["visibility"] for one in hub.repositories] == ["private"]
    (first, model), (second, rest) = hub.commits
    assert (first, second) == ("half, seed 1, generation 2", "tables")
    place = "half/seed-1/generation-2"
    assert set(model) == {f"{place}/{name}" for name in ("config.json", "model.safetensors", "README.md")}
    assert model[f"{place}/model.safetensors"] == b"weights"
    assert model[f"{place}/README.md"].decode() == card("half", 1, 2, ARM, SUMMARY)
    assert rest == {"tables/collapse.csv": tables[0].read_bytes(), "README.md": overview(models, SUMMARY).encode()}
    assert hub.tokens == {f"Bearer {SECRET}"}


def test_cards_say_what_was_learnt_and_measured():
    text = card("half", 1, 2, ARM, SUMMARY)

    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "learnt 30 new documents, 50% of them written by the one before (mode `replace`" in text
    assert "| facts recalled | 0.750 |\n| of the least often stated third | 0.500 |\n" in text
    assert "| 0.750 | 0.500 | nan | 3.250 | nan |" in overview({("half", 1, 2): None}, SUMMARY)


@pytest.mark.parametrize(("failures", "commits"), [(0, 2), (3, 2), (4, 0)])
def test_a_hub_that_is_down_is_asked_again_a_few_times(hub, made, monkeypatch, failures, commits):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    hub.down = failures

    done = upload(Upload(repo_id="me/mine", endpoint=hub.address), *made, {"half": ARM}, SECRET)

    assert len(done["commits"]) == len(hub.commits) == commits
    assert waited == [2, 10, 60][:failures]
    assert ("503" in done["failed"]) == (commits == 0)


@pytest.mark.parametrize("trouble", ["refused", "nobody"])
def test_trouble_changes_nothing_and_tells_no_secret(hub, made, capfd, caplog, monkeypatch, trouble):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    hub.answer = 403
    endpoint = hub.address if trouble == "refused" else "http://127.0.0.1:1"

    done = upload(Upload(repo_id="me/mine", endpoint=endpoint), *made, {"half": ARM}, SECRET)

    assert done["commits"] == []
    assert done["failed"]
    # What is forbidden stays so.
    assert waited == ([] if trouble == "refused" else [2, 10, 60])
    assert SECRET not in "".join([done["failed"], caplog.text, *capfd.readouterr()])
