"""Graphs of a small world's facts, as tables, as Neuronpedia's JSON and as pages that answer in a browser."""

import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch

from factlife.config.graphs import CustomPrompt, Graphs
from factlife.graphs import build, export, tables
from factlife.graphs.export import cantor
from factlife.graphs.graph import GraphError
from factlife.models.anatomy import get_anatomy
from factlife.saes import features
from factlife.saes.activations import dictionary_sites
from factlife.saes.dictionary import Dictionary

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SCHEMA = json.loads((Path(__file__).parent / "graph.schema.json").read_text())


@pytest.fixture(scope="module")
def transcoders(small_model):
    """Random transcoders with active features."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in dictionary_sites(get_anatomy(small_model), "transcoder"):
        rows = torch.nn.functional.normalize(torch.randn(40, 32, generator=generator), dim=-1)
        weights = {"W_enc": torch.randn(32, 40, generator=generator) / 6, "W_dec": rows, "b_dec": torch.zeros(32)}
        found.append(Dictionary(**weights, b_enc=torch.zeros(40), threshold=torch.full((40,), 0.2), is_transcoder=True))
    return found


@pytest.fixture(scope="module")
def described(small_model, small_tokenizer, small_world, transcoders):
    """What their features are about."""
    texts = small_world.probes["prompt"].tolist()[:20]
    return features.describe_features(
        small_model, small_tokenizer, small_tokenizer(texts)["input_ids"], "transcoder", transcoders
    )


def build_graphs(model, tokenizer, world, transcoders, described=None, **settings):
    """Graphs with little in them."""
    labels = pd.Series(dtype=str) if described is None else described.set_index(["layer", "feature"])["label"]
    settings = {"pages": 1, "scored_facts": 3, "random_features": 10} | settings
    return build.build_attribution_graphs(model, tokenizer, world, transcoders, labels, Graphs(**settings))


@pytest.fixture(scope="module")
def explained(small_model, small_tokenizer, small_world, transcoders, described):
    """Three facts, one of them with a page."""
    return build_graphs(small_model, small_tokenizer, small_world, transcoders, described)


@pytest.fixture(scope="module")
def written(explained, described, tmp_path_factory):
    """The folder with the page."""
    folder = tmp_path_factory.mktemp("graphs")
    settings = Graphs().model_dump()
    export.write_graphs(
        folder,
        explained.pages,
        described,
        scan="small",
        settings=settings,
        provenance={},
        model_info={"model": "m", "seed": 0},
    )
    return folder


def test_every_fact_has_scores_and_interventions_for_answer_and_contrast(explained):
    scores, rows = pd.DataFrame(explained.scores), pd.concat(explained.interventions)
    assert scores.groupby("attribution_target")["fact_id"].nunique().to_dict() == {"answer": 3, "contrast": 3}
    assert scores["replacement_score"].between(0, 1).all() and scores["completeness_score"].between(0, 1).all()
    assert scores["max_logit_error"].max() < 1e-4 and scores["max_row_error"].max() < 1e-3
    np.testing.assert_allclose(rows["predicted"], rows["linear"], rtol=1e-2, atol=1e-3)
    # Taking a feature out and doubling it are opposite where all is linear.
    wide = rows.pivot_table(
        index=["fact_id", "attribution_target", "layer", "position", "feature"],
        columns="steering_factor",
        values="linear",
    )
    np.testing.assert_allclose(wide[0.0], -wide[2.0], rtol=1e-2, atol=1e-3)
    assert rows.groupby(["fact_id", "attribution_target"])["in_pruned_graph"].sum().min() > 0


def test_groups_are_taken_out_together(explained):
    for page in explained.pages:
        alone = page.interventions.query("steering_factor == 0").set_index(["layer", "position", "feature"])[
            "predicted"
        ]
        assert all(len(supernode.features) > 1 for supernode in page.supernodes)
        for supernode in page.supernodes:
            keys = [tuple(row) for row in page.graph.features[supernode.features].tolist()]
            assert supernode.ablation_effects["predicted"] == pytest.approx(alone[keys].sum(), rel=1e-3, abs=1e-4)
            assert {"replacement", "frozen", "unfrozen"} < set(supernode.ablation_effects)
    assert any(page.supernodes for page in explained.pages)


def test_json_is_neuronpedias_and_ids_do_not_collide(written):
    index = json.loads((written / "graph-metadata.json").read_text())["graphs"]
    assert len(index) == 2
    for metadata in index:
        graph = json.loads((written / f"{metadata['slug']}.json").read_text())
        jsonschema.validate(graph, SCHEMA)
        ids = [node["node_id"] for node in graph["nodes"]]
        assert graph["metadata"] == metadata and len(set(ids)) == len(ids)
        assert {end for link in graph["links"] for end in (link["source"], link["target"])} <= set(ids)
        assert {
            *graph["qParams"]["pinnedIds"],
            *(i for group in graph["qParams"]["supernodes"] for i in group[1:]),
        } <= set(ids)
        for node in graph["nodes"]:
            if node["feature_type"] == "cross layer transcoder":
                layer, feature, position = map(int, node["node_id"].split("_"))
                assert (str(layer), position, cantor(layer, feature)) == (
                    node["layer"],
                    node["ctx_idx"],
                    node["feature"],
                )
                told = json.loads((written / f"features/small/{node['feature']}.json").read_text())
                assert told["index"] == node["feature"] and node["clerp"] == told["label"]


def test_every_id_differs_even_where_circuit_tracers_do_not(explained):
    graph = explained.pages[0].graph
    ids = export.node_ids(graph)
    assert len(set(ids)) == len(ids) == len(graph.effects)
    # An error of layer 1 and feature 1 of layer 0 at the same position would both be `0_1_…` there.
    assert any(one.startswith("ERR_1_") for one in ids) and cantor(2, 3) == 18


def test_pages_hold_no_address_and_the_json(written):
    text = next(written.glob("*.html")).read_text()
    slug = next(written.glob("*.html")).stem
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["graph"] == json.loads((written / f"{slug}.json").read_text())
    for more in data["nodes"].values():
        assert more["error"] + more["pruned"] <= 1 + 1e-6


@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
def test_page_in_a_browser(written, tmp_path):
    page = next(path for path in sorted(written.glob("*.html")) if "contrast" not in path.stem)
    with Browser(page, tmp_path) as browser:
        nodes = browser.ask("document.querySelectorAll('#links .node').length")
        assert nodes == len(json.loads(page.with_suffix(".json").read_text())["nodes"])
        assert browser.ask("[...document.getElementById('pages').options].map(o => o.value).sort()") == sorted(
            path.stem for path in written.glob("*.html")
        )
        assert browser.ask("document.getElementById('pages').hidden") is False
        assert "errors" in browser.ask("document.getElementById('error-mass').textContent")
        assert browser.ask("document.querySelectorAll('#connections .row').length") > 0
        browser.key("Escape")
        assert browser.ask("document.querySelectorAll('#connections .row').length") == 0
        browser.ask(
            "document.querySelector('#links .node circle:not([r=\"7.2\"])').parentNode.dispatchEvent(new Event('click'))"
        )
        assert browser.ask("document.querySelectorAll('#connections .row').length") > 0
        sizes = browser.ask("[...document.querySelectorAll('#connections .two div:first-child .value')].map(e => Math.abs(parseFloat(e.textContent.replace('−', '-'))))")  # fmt: skip
        assert sizes == sorted(sizes, reverse=True)
        assert "predicted" in browser.ask("document.getElementById('feature').textContent")
        browser.ask(
            "{ const s = document.getElementById('prune'); s.value = 0.4; s.dispatchEvent(new Event('input')); }"
        )
        assert browser.ask("document.querySelectorAll('#links .node').length") < nodes
        assert browser.ask("document.querySelectorAll('#pinned .node').length") > 1
        links = browser.ask("document.querySelectorAll('#links .link').length")
        browser.ask(
            "{ const s = document.getElementById('density'); s.value = 1; s.dispatchEvent(new Event('input')); }"
        )
        assert browser.ask("document.querySelectorAll('#links .link').length") > links
        browser.key("Escape")
        assert browser.ask("document.querySelectorAll('#links .own').length") == 0
        browser.key("ArrowRight")
        assert (
            "node=" in browser.ask("location.hash")
            and browser.ask("document.querySelectorAll('#links .own').length") > 0
        )
        before = browser.ask("document.querySelectorAll('#pinned .node').length")
        assert browser.ask("location.hash.includes('node=&')") is False
        browser.key("p")
        assert browser.ask("document.querySelectorAll('#pinned .node').length") != before
        browser.ask(
            "{ const s = document.getElementById('search'); s.value = 'token'; s.focus(); s.dispatchEvent(new Event('input')); }"
        )
        assert browser.ask("document.querySelectorAll('#found .row').length") > 0
        assert browser.ask("{ let got; URL.createObjectURL = blob => { got = blob; return '#'; }; document.getElementById('save-svg').click(); got.size }") > 1000  # fmt: skip
        assert browser.errors == [] and browser.requests == [page.as_uri()]


class Browser:
    """Chromium without a window on one page, over its debugging protocol."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page, self.folder, self.errors, self.requests, self.count = page, folder, [], [], 0

    def __enter__(self):
        websocket = pytest.importorskip("websocket")
        options = "--headless --no-sandbox --disable-gpu --remote-debugging-port=0 --remote-allow-origins=* --window-size=1440,900"
        self.process = subprocess.Popen(
            [BROWSER, *options.split(), f"--user-data-dir={self.folder}/profile", "about:blank"],
            stderr=subprocess.DEVNULL,
        )
        port = self.folder / "profile/DevToolsActivePort"
        for _ in range(300):
            if port.exists() and port.read_text():
                break
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as answer:
            tab = next(one for one in json.load(answer) if one["type"] == "page")
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=60)
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=self.page.as_uri())
        while self.ask("document.readyState") != "complete" or not self.ask("!!document.querySelector('#links svg')"):
            assert not self.errors, self.errors
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)

    def call(self, method, **params):
        """Answer to a command; what happens meanwhile is kept."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            said = json.loads(self.socket.recv())
            match said.get("method"):
                case "Runtime.exceptionThrown":
                    self.errors.append(said["params"]["exceptionDetails"])
                case "Log.entryAdded" if said["params"]["entry"]["level"] == "error":
                    self.errors.append(said["params"]["entry"])
                case "Network.requestWillBeSent":
                    self.requests.append(said["params"]["request"]["url"].split("#")[0])
            if said.get("id") == self.count:
                assert "exceptionDetails" not in said.get("result", {}), said
                return said.get("result", {})

    def ask(self, expression):
        """Value of an expression on the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def key(self, name):
        """Press a key."""
        self.ask(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: '{name}', bubbles: true}}))")


def test_named_facts_come_first_and_own_prompts_before(small_model, small_tokenizer, small_world):
    name = small_world.facts.query("relation == 'major' and seen").iloc[-1]["fact_id"]
    probe = small_world.probes.query("fact_id == @name and kind == 'forward'").iloc[0]
    custom_prompts = {"mine": CustomPrompt(prompt=probe["prompt"], answer=probe["target"])}
    prompts = build.select_prompts(
        small_model, small_tokenizer, small_world, Graphs(pages=[name], prompts=custom_prompts, scored_facts=4)
    )
    assert [prompt.name for prompt in prompts[:2]] == ["mine", name] and len(prompts) == 4
    assert [prompt.has_page for prompt in prompts] == [True, True, False, False]
    # Values of several tokens are nobody's unless they are asked for.
    assert {prompt.relation for prompt in prompts[1:]} == {"major"}
    assert prompts[1].wrong and prompts[1].answer not in prompts[1].wrong and prompts[0].wrong == ()
    assert len({prompt.subject for prompt in prompts[2:]}) == 2


def test_errors_say_what_to_do(small_model, small_tokenizer, small_world, transcoders):
    asked = (small_model, small_tokenizer, small_world, transcoders)
    date = small_world.facts.query("relation == 'birth_date'").iloc[0]["fact_id"]
    with pytest.raises(GraphError, match=r"explains a single token, but .* has 2 tokens"):
        build_graphs(*asked, pages=[date])
    with pytest.raises(GraphError, match=r"graphs.pages: there is no forward probe of nobody.major"):
        build_graphs(*asked, pages=["nobody.major"])
    with pytest.raises(GraphError, match="2 layers, but there are transcoders of 1"):
        build_graphs(small_model, small_tokenizer, small_world, transcoders[:1])


def test_tables_say_how_well_predictions_agree():
    """Measured is twice the predicted, with nothing held its negative; a random direction does a quarter of it."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"predicted": rng.normal(size=80), "fact_id": np.repeat(["a.x", "b.x"], 40)})
    rows = rows.assign(
        model="m", seed=0, attribution_target="answer", steering_factor=0.0, in_pruned_graph=True, predicted_direct=rng.normal(size=80),
        linear=2 * rows["predicted"], replacement=2 * rows["predicted"], frozen=2 * rows["predicted"],
        unfrozen=-rows["predicted"], random_frozen=0.5 * rows["predicted"], random_unfrozen=0.25 * rows["predicted"],
    )  # fmt: skip
    scores = dict.fromkeys(tables._SCORES, 1.0) | {"model": "m", "seed": 0, "attribution_target": "answer"}
    table = tables.summarise_graphs(
        pd.DataFrame([scores | {"fact_id": name} for name in ("a.x", "b.x")]), rows, resamples=20
    ).set_index(["setting", "predictor", "feature_set", "metric"])["estimate"]

    assert table["frozen", "total", "all", "pearson"] == pytest.approx(1)
    assert table["frozen", "total", "all", "slope"] == pytest.approx(2)
    assert table["unfrozen", "total", "pruned_graph", "pearson"] == pytest.approx(-1)
    assert table["unfrozen", "total", "influential", "sign_agreement"] == 0
    assert abs(table["frozen", "direct", "all", "pearson"]) < 0.4
    assert abs(table["frozen", "shuffled", "all", "pearson"]) < 0.4
    assert table["frozen", "", "all", "effect_over_random"] == pytest.approx(4)
    assert table["", "", "", "replacement_score"] == 1


def test_no_graphs_make_an_empty_table():
    assert tables.summarise_graphs(tables.read_tables([]), tables.read_tables([]), resamples=5).empty
