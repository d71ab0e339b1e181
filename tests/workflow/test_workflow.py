"""The real workflow, end to end, on the smoke scenario in folders of their own."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest
import yaml
from transformers import AutoTokenizer, BertConfig, BertModel

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "results/worlds/people/entities.parquet": "entity_id, name, kind, split, exposures",
    "results/worlds/people/facts.parquet": "fact_id, entity_id, relation, value, value_id, seen, exposures",
    "results/worlds/people/probes.parquet": (
        "probe_id, fact_id, kind, template, held_out_template, prompt, target, candidates, supporting_fact_ids"
    ),
    "results/corpora/people/documents.parquet": ("doc_id, text, fact_ids, entity_ids, kind, template_ids, split"),
    "results/recall/people-pieces/seed-0.parquet": (
        "model, seed, step, exposures, probe_id, fact_id, relation, kind, first_token_correct, exact_match, "
        "generation_match, loss_nats, rank, candidate_probability"
    ),
    "results/tables/edits.csv": (
        "model, seed, editor, schedule, n_edits, phase, criterion, metric, n, estimate, ci_low, ci_high, interval_over"
    ),
    "results/tables/influence.csv": (
        "model, seed, world, ranker, depth, k, metric, n, estimate, ci_low, ci_high, interval_over"
    ),
    "results/influence/functions/seed-0/functions.gradient-cosine.parquet": "query_id, doc_id, score",
    "results/tables/dynamics.csv": (
        "experiment, arm, seed, control, metric, n, estimate, ci_low, ci_high, interval_over, effect, effect_low, effect_high"
    ),
    "results/tables/recall.csv": (
        "model, seed, step, exposures, relation, probe_kind, metric, n, estimate, ci_low, ci_high, interval_over"
    ),
    "results/tables/collapse.csv": (
        "model, arm, seed, generation, group, metric, n, estimate, ci_low, ci_high, interval_over"
    ),
    "results/tables/costs.csv": "rule, model, seed, name, metric, estimate",
    "results/tables/circuits.csv": (
        "model, seed, relation, method, fraction, metric, n, estimate, ci_low, ci_high, interval_over"
    ),
    "results/tables/dictionaries.csv": (
        "model, seed, site, layer, architecture, metric, n, estimate, ci_low, ci_high, interval_over, dictionary, k"
    ),
    "results/tables/graphs.csv": (
        "model, seed, attribution_target, setting, predictor, feature_set, steering_factor, metric, n, estimate, ci_low, "
        "ci_high, interval_over"
    ),
    "results/tables/tracing.csv": (
        "model, seed, corruption, component, window, token_role, layer, metric, n, estimate, ci_low, ci_high, "
        "interval_over"
    ),
}
FUNCTIONS = "results/recall/functions/seed-0.parquet"


@pytest.fixture(scope="session")
def smoke(check_out, tmp_path_factory):
    """The smoke scenario after one run of it; to be read only."""
    checkout = check_out(tmp_path_factory.mktemp("smoke"))
    run = checkout.snakemake("all", "--cores", "2").passed()
    assert len(run.jobs()) <= 42
    return checkout


@pytest.fixture
def done(smoke, tmp_path):
    """A copy of the smoke scenario after its run."""
    return smoke.copy(tmp_path / "done")


@pytest.fixture(scope="session")
def clean(check_out, tmp_path_factory):
    """A copy of the workflow in which nothing is ever run."""
    return check_out(tmp_path_factory.mktemp("clean"))


@pytest.mark.parametrize("path", COLUMNS)
def test_tables_have_the_columns_that_stages_share(smoke, path):
    file = smoke.folder / path
    table = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)

    wanted = COLUMNS[path].split(", ")
    assert list(table.columns)[: len(wanted)] == wanted
    assert len(table)


@pytest.mark.parametrize(
    "path",
    [
        "results/worlds/functions/graph.graphml",
        "results/worlds/functions/graph.json",
        "results/tokenizers/people-pieces/tokenizer.json",
        "results/tokens/people.people-pieces/manifest.json",
        "results/models/people-pieces/seed-0/manifest.json",
        "results/models/people-pieces/seed-0/model.safetensors",
        "results/models/people-pieces/seed-0.training.csv",
        "results/covariance/people-pieces/seed-0/people.safetensors",
        "results/edits/people-pieces/seed-0/people-memit/deltas.safetensors",
        "results/edits/people-pieces/seed-0/people-memit/edits.parquet",
        "results/circuits/people-pieces/seed-0/major.EAP-IG-inputs.json",
        "results/collapse/people-pieces/replace/seed-0/generation-1/manifest.json",
        "results/figures/dynamics-curriculum.svg",
    ],
)
def test_other_files_are_where_the_contract_says(smoke, path):
    assert (smoke.folder / path).stat().st_size


def test_every_checkpoint_is_asked(smoke):
    folder = smoke.folder / "results/models/functions/seed-0/checkpoints"
    steps = {int(path.name.removeprefix("step-")) for path in folder.iterdir()}

    assert steps == set(pd.read_parquet(smoke.folder / FUNCTIONS)["step"])
    assert all((path / "model.safetensors").exists() for path in folder.iterdir())


def test_a_second_run_has_nothing_to_do(smoke):
    assert "Nothing to be done" in smoke.snakemake("all", "--cores", "1").passed().text


def test_one_file_runs_only_what_it_needs(clean):
    run = clean.snakemake("results/recall/people-pieces/seed-0.parquet", "--dry-run").passed()

    assert run.jobs() == {
        "generate_world people",
        "generate_corpus people",
        "train_tokenizer people-pieces",
        "tokenize_corpus people people-pieces",
        "train_model people-pieces 0",
        "evaluate_recall people-pieces 0",
    }


@pytest.mark.parametrize(
    ("config", "jobs"),
    [
        ({"models": {"people-pieces": {"training": {"learning_rate": 0.001}}}}, {"train_model people-pieces 0"}),
        ({"tokenizers": {"people-pieces": {"vocab_size": 500}}}, {"train_tokenizer people-pieces"}),
        (
            {"run": {"resamples": 100}},
            {
                "discover_circuits people-pieces 0",
                "train_saes people-pieces 0 batchtopk-transcoder",
                "evaluate_rankings functions 0",
                *(f"summarise_{stage}" for stage in ("recall", "tracing", "edits", "dynamics", "collapse")),
            },
        ),
        (
            {"models": {"people-pieces": {"batch_tokens": 4096}}},
            {
                "evaluate_recall people-pieces 0",
                "trace_model people-pieces 0",
                "discover_circuits people-pieces 0",
                "edit_model people-pieces 0 people-memit",
                "train_generation people-pieces replace 0 0",
            },
        ),
        ({"defaults": {"tracing": {"seed": 1}}}, {"trace_model people-pieces 0"}),
        ({"worlds": {"countries": {"panel": 3}}}, set()),
    ],
    ids=str,
)
def test_a_setting_reruns_only_what_uses_it(smoke, config, jobs):
    # Snakemake names this reason for the first of the jobs that depend on each other.
    run = smoke.snakemake("all", "--dry-run", config=config).passed()

    assert run.jobs("Params have changed") == jobs
    models = {job.split()[1] for job in run.jobs() if job.startswith("train_model")}
    assert models <= {job.split()[1] for job in jobs if " " in job}


def test_what_smoke_leaves_out_runs_on_its_models(done):
    survival = {"editors": ["people-memit"], "data": ["related", "edited_subjects"], "steps": [1, 2], "batch_size": 4}
    edited = {
        "survival": survival,
        "site_sweep": {"editor": "people-memit", "n_edits": 4},
        "editors": ["people-memit", "memit-batch", "alphaedit-batch", "mend"],
        "target_vectors": {"shared": True, "shards": 2},
    }
    batch = {"schedule": {"n_edits": 8}, "values": {"v_num_grad_steps": 3, "batch_size": 4}}
    editors = {
        "memit-batch": {"kind": "memit", **batch},
        "alphaedit-batch": {"kind": "alphaedit", "nullspace_energy": 0.2, **batch},
        "mend": {"kind": "mend", "hypernetwork": "tiny", "schedule": {"n_edits": 8}},
    }
    networks = {"tiny": {"layers": [-1], "rank": 8, "train_edits": 20, "steps": 2, "edits_per_batch": 4}}
    retrained = {"subsets": 3, "repeats": 1, "shards": 1, "top_k_removal": {"k": 10, "repeats": 2}}
    tokenizer = AutoTokenizer.from_pretrained(done.folder / "results/tokenizers/functions")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for saved in (BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)), tokenizer):
        saved.save_pretrained(done.folder / "encoder")
    rankers = {"sentences": {"kind": "embedding", "source": {"kind": "folder", "path": "encoder"}}}
    influence_settings = {
        "rankers": ["bm25", "gradient-cosine", "sentences"],
        "tail_patch": {"k": 1},
        "retrained_models": retrained,
    }
    points = [{"value": value, "model": "functions", "ranker": "bm25", "curve": "same"} for value in (0, 1)]
    asked = {
        "models": {"people-pieces": {"editing": edited}, "functions": {"influence": influence_settings}},
        "editors": editors,
        "hypernetworks": networks,
        "rankers": rankers,
        "influence": {"sweeps": {"none": {"title": "nothing", "points": points}}},
    }
    tables = [f"results/tables/{name}.csv" for name in ("edit_survival", "edit_sites", "influence", "edits")]
    run = done.snakemake(*tables, "--cores", "2", "--rerun-triggers", "mtime", "input", config=asked).passed()

    assert run.jobs() >= {
        "finetune_edited_model people-pieces 0 people-memit",
        "summarise_edit_survival",
        "sweep_edit_sites people-pieces 0",
        "summarise_edit_sites",
        "train_mend people-pieces 0 tiny",
        "edit_model people-pieces 0 mend",
        "compute_target_vectors people-pieces 0 memit-batch 0",
        "compute_target_vectors people-pieces 0 memit-batch 1",
        "edit_model people-pieces 0 memit-batch",
        "edit_model people-pieces 0 alphaedit-batch",
        "retrain_on_subset functions 0",
        "rank_by_embedding functions 0 functions sentences",
        "tail_patch functions 0",
        "summarise_influence",
    }
    assert not [job for job in run.jobs() if job.startswith("compute_target_vectors") and "memit-batch" not in job]
    survival, edit_sites, influence, edits = (pd.read_csv(done.folder / table) for table in tables)
    assert set(survival["step"]) == {0, 1, 2}
    assert set(survival["group"]) >= {"edits", "control", "unedited", "unedited_control"}
    assert set(edit_sites["layer"].dropna()) == {0, 1}
    assert set(edits["editor"]) == {"people-memit", *editors}
    assert influence.loc[influence["metric"] == "lds", "ranker"].nunique() >= 3
    patched = influence[(influence["metric"] == "tail_patch") & (influence["depth"] == "all")]
    assert set(patched["ranker"]) == {*influence_settings["rankers"], "random documents"}
    assert (done.folder / "results/figures/influence-sweeps.svg").stat().st_size


def test_models_of_ones_own_as_the_tutorial_has_them(clean):
    page = (ROOT / "docs/tutorial.md").read_text()
    asked = yaml.safe_load(re.search(r"```yaml\n(# models.yaml.*?)```", page, flags=re.DOTALL)[1])
    run = clean.snakemake("all", "--dry-run", config=clean.write_config(asked)).passed()

    wanted = {"train_model olmo 2", "evaluate_recall olmo 2", "evaluate_recall pythia 0", "trace_model pythia 0"}
    assert wanted <= run.jobs()
    assert "summarise_dynamics" not in run.jobs()


def test_requests_as_the_tutorial_has_them_are_planned_without_a_world(clean):
    page = (ROOT / "docs/tutorial.md").read_text()
    asked = yaml.safe_load(re.search(r"```yaml\n(# requests.yaml.*?)```", page, flags=re.DOTALL)[1])
    (clean.folder / "pythia").mkdir(exist_ok=True)
    (clean.folder / "counterfact.json").write_text("[]")
    asked["models"]["mine"]["source"]["path"] = "pythia"
    run = clean.snakemake("all", "--dry-run", config=clean.write_config(asked)).passed()

    assert {"edit_model mine 0 memit", "edit_model mine 0 rome", "summarise_edits"} <= run.jobs()
    assert not {"evaluate_recall mine 0", "summarise_recall", "build_ledger"} & run.jobs()
    assert not [job for job in run.jobs() if job.startswith("generate_world")]


def test_an_editor_and_a_ranker_of_ones_own_as_the_tutorial_adds_them(done):
    page = (ROOT / "docs/tutorial.md").read_text()
    blocks = {
        block.partition("\n")[0].removeprefix("# "): block
        for block in re.findall(r"```(?:python|yaml)\n(.*?)```", page, flags=re.DOTALL)
    }
    for module in ("my_editors.py", "my_rankers.py"):
        (done.folder / module).write_text(blocks[module])
    asked = {
        key: value for file in ("editor.yaml", "ranker.yaml") for key, value in yaml.safe_load(blocks[file]).items()
    }
    asked["models"] = {
        name: settings
        for file in ("editor.yaml", "ranker.yaml")
        for name, settings in yaml.safe_load(blocks[file])["models"].items()
    }
    made = [
        "results/edits/people-pieces/seed-0/embeddings",
        "results/influence/functions/seed-0/functions.overlap.parquet",
    ]
    done.snakemake(*made, "--cores", "2", "--rerun-triggers", "mtime", config=asked).passed()

    edits = pd.read_parquet(done.folder / made[0] / "edits.parquet")
    assert set(edits["editor"]) == {"embeddings"} and edits["n_edits"].max() == 8
    assert pd.read_parquet(done.folder / made[1])["score"].between(0, 1).all()


@pytest.mark.parametrize(
    ("module", "rules"),
    [
        ("recall/summary", {"summarise_recall"}),
        ("models/optim", {"train_model"}),
        ("world/templates", {"generate_world"}),
    ],
)
def test_code_reruns_the_rules_that_use_it(done, module, rules):
    path = done.folder / f"workflow/scripts/factlife/{module}.py"
    text = path.read_text()

    path.write_text(f"# A comment.\n{text}")
    assert "Nothing to be done" in done.snakemake("all", "--dry-run").passed().text

    function = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    lines = text.splitlines()
    last = function.body[-1]
    lines.insert(last.lineno - 1, " " * last.col_offset + "print()")
    path.write_text("\n".join(lines))
    changed = done.snakemake("all", "--dry-run").passed().jobs("Params have changed")
    assert {job.split()[0] for job in changed} == rules


@pytest.mark.parametrize(
    ("config", "texts"),
    [
        ({"run": {"resample": 5}}, ["run.resample is not a key", "did you mean `resamples`?"]),
        (
            {"models": {"functions": {"editing": {"editors": ["memit"]}}}},
            ["models.functions.editing is a section of a stage that is not run", "models.functions.stages"],
        ),
        (
            {
                "run": {"models": ["mine"]},
                "models": {"mine": {"source": {"kind": "folder", "path": "."}, "stages": ["recall", "editing"]}},
            },
            ["models.mine.world is missing", "recall, editing"],
        ),
        ({"corpora": {"people": {"window_fraction": 1.4}}}, ["corpora.people.window_fraction", "1.4", "1"]),
        ({"run": {"models": ["people-peaces"]}}, ["run.models", "`people-peaces`", "did you mean `people-pieces`?"]),
        (
            {"models": {"hub": {"world": "countries", "source": {"kind": "hub", "repo_id": "a/b"}}}},
            ["models.hub.source.revision is missing", "so that the run can be repeated"],
        ),
        (
            {
                "run": {"models": ["packed"]},
                "models": {
                    "packed": {
                        "world": "countries",
                        "source": {"kind": "gguf", "package": "no-such-package", "version": "1", "file": "a.gguf"},
                    }
                },
            },
            ["no-such-package is not installed", "pip install"],
        ),
        (
            {
                "run": {"models": ["mine"]},
                "worlds": {"mine": {"kind": "table", "facts": "no-such.csv", "templates": "no-such.yaml"}},
                "models": {"mine": {"world": "mine", "source": {"kind": "folder", "path": "."}}},
            },
            ["no-such.csv"],
        ),
    ],
    ids=[
        "misspelt",
        "unlisted-stage",
        "no-world",
        "out-of-range",
        "unknown-model",
        "no-revision",
        "no-package",
        "no-facts",
    ],
)
def test_a_bad_config_stops_before_any_job(clean, config, texts):
    run = clean.snakemake("all", "--cores", "1", config=config)

    assert run.status != 0
    assert not run.jobs()
    assert not (clean.folder / "results").exists()
    for text in texts:
        assert text in run.text


def test_a_damaged_model_is_named_with_the_remedy(done):
    path = done.folder / "results/models/functions/seed-0/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    run = done.snakemake(FUNCTIONS, "--cores", "1", "--forcerun", "evaluate_recall")

    assert run.status != 0
    assert "logs/evaluate_recall/functions/seed-0.log" in run.text
    # The default profile shows the log.
    assert "functions/seed-0/model.safetensors does not match its manifest" in run.text
    assert "delete the folder and run again" in run.text


def test_a_killed_training_resumes_to_the_same_result(done):
    recall = "results/recall/people-pieces/seed-0.parquet"
    model = "results/models/people-pieces/seed-0/model.safetensors"
    before = {path: (done.folder / path).read_bytes() for path in (recall, model)}
    folder = done.folder / "results/models/people-pieces"
    shutil.rmtree(folder)
    often = {"models": {"people-pieces": {"training": {"save_steps": 10}}}}

    # Its own process group, as a terminal gives it, so that all its jobs die with it.
    command = done.command(recall, "--cores", "2", config=often)
    with subprocess.Popen(command, cwd=done.folder, stdin=subprocess.DEVNULL, start_new_session=True) as running:
        while not list(
            done.folder.glob("resume/results/models/people-pieces/seed-0/trainer/checkpoint-*/trainer_state.json")
        ):
            assert running.poll() is None, "training ended before it could be killed"
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    assert not (done.folder / model).exists()

    assert "--unlock" in done.snakemake(recall, "--cores", "2", config=often).text
    done.snakemake(recall, "--unlock", config=often).passed()
    run = done.snakemake(recall, "--cores", "2", config=often).passed()

    assert "train_model people-pieces 0" in run.jobs()
    log = (done.folder / "logs/train_model/people-pieces/seed-0.log").read_text()
    assert (
        int(re.search(r"resuming from checkpoint-(\d+)", log)[1])
        < pd.read_csv(folder / "seed-0.training.csv")["step"].max()
    )
    for path, data in before.items():
        assert (done.folder / path).read_bytes() == data
    assert not (done.folder / "resume/results/models/people-pieces/seed-0").exists()


def test_a_killed_generation_resumes_to_the_same_tables(done):
    folder, table = (
        done.folder / "results/collapse/people-pieces/replace/seed-0/generation-1",
        "results/tables/collapse.csv",
    )
    before = {path: path.read_bytes() for path in (done.folder / table, folder / "samples.parquet")}
    targets = [str(folder.relative_to(done.folder)), table]
    shutil.rmtree(folder)
    trained = done.folder / f"resume/{folder.relative_to(done.folder)}/trained"

    with subprocess.Popen(done.command(*targets, "--cores", "1"), cwd=done.folder, start_new_session=True) as running:
        while not trained.exists():
            assert running.poll() is None, "the generation ended before it could be killed"
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    assert not (folder / "manifest.json").exists()

    done.snakemake(*targets, "--unlock").passed()
    run = done.snakemake(*targets, "--cores", "1", "--rerun-incomplete").passed()
    assert {"train_generation people-pieces replace 0 1", "summarise_collapse"} <= run.jobs()
    for path, data in before.items():
        assert path.read_bytes() == data


def test_messages_tell_of_start_and_end_and_no_file_of_their_address(check_out, tmp_path, monkeypatch):
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["title"])
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FACTLIFE_NOTIFY", f"json://127.0.0.1:{server.server_port}/verysecrettoken")
    checkout = check_out(tmp_path)

    world = "results/worlds/people/facts.parquet"
    run = checkout.snakemake(world, "--cores", "1").passed()
    failed = checkout.snakemake(world, "--cores", "1", config={"worlds": {"people": {"panel": 500}}})
    server.shutdown()

    assert failed.status != 0
    assert got == ["Factlife has started", "Factlife is done", "Factlife has started", "Factlife has failed"]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert b"verysecrettoken" not in b"".join([run.text.encode(), failed.text.encode(), *written])


def test_the_report_needs_no_network(smoke):
    smoke.snakemake("all", "--report", "report.html").passed()

    text = (smoke.folder / "report.html").read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', text)


@pytest.mark.parametrize(
    ("scenario", "models"),
    [
        ("paper/gpt2-circuits", ["gpt2"]),
        ("paper/gemma-2b-circuits", ["gemma-2b"]),
    ],
)
def test_circuits_of_models_that_were_trained_elsewhere_are_planned(clean, scenario, models):
    run = clean.snakemake("circuits", "--dry-run", config=f"config/{scenario}.yaml").passed()

    assert {f"discover_circuits {model} 0" for model in models} <= run.jobs()


def test_the_default_scenario_is_planned(clean):
    began = time.perf_counter()
    clean.snakemake("all", "--dry-run", config="config/config.yaml").passed()
    print(f"dry run of the default scenario: {time.perf_counter() - began:.1f} s")
