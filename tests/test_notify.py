"""Messages against a server of our own: what arrives, and that nothing else happens where it does not answer."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from factlife.notify import VARIABLE, send

SECRET = "verysecrettoken"


@pytest.fixture
def server():
    """Keeps what is posted; ``answer`` is the status that it gives, ``wait`` the seconds that it takes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.server.got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            time.sleep(self.server.wait)
            self.send_response(self.server.answer)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.answer, server.wait = [], 200, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def address(port):
    return f"json://127.0.0.1:{port}/{SECRET}"


def test_a_message_arrives_at_every_address(server, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"{address(server.server_port)}/a {address(server.server_port)}/b")

    assert send("Generation 3", "recall 0.81")

    assert sorted(path for path, _ in server.got) == [f"/{SECRET}/a", f"/{SECRET}/b"]
    assert {(said["title"], said["message"]) for _, said in server.got} == {("Generation 3", "recall 0.81")}


@pytest.mark.parametrize("trouble", ["refused", "nobody", "nonsense", "slow"])
def test_trouble_changes_nothing_and_tells_no_secret(server, monkeypatch, capfd, trouble):
    server.answer, server.wait = (500, 0) if trouble == "refused" else (200, 5 * (trouble == "slow"))
    addresses = {"nobody": address(1), "nonsense": f"no://{SECRET}"}
    monkeypatch.setenv(VARIABLE, addresses.get(trouble, address(server.server_port)))

    began = time.perf_counter()
    assert not send("title", "body", seconds=2 if trouble == "slow" else 20)

    assert time.perf_counter() - began < 15
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("value", [None, "", " "])
def test_without_an_address_nothing_is_sent(monkeypatch, value):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    assert not send("title", "body")
