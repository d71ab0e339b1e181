"""A corpus that a language model writes needs its key only while answers are missing."""

from __future__ import annotations

import json

import pytest
import yaml

from factlife import config
from factlife.config import merge, written

TOLD = {
    "corpora": {
        "told": {
            "kind": "written", "world": "people", "writer": {"kind": "anthropic", "model": "stub"},
            "answers": "answers/told.jsonl", "documents_per_subject": 1,
        },
        "own": {
            "kind": "written", "world": "people", "writer": {"kind": "model", "model": "functions"},
            "answers": "answers/own.jsonl",
        },
    },
    "tokenizers": {"people-pieces": {"kind": "bpe", "corpus": "told"}},
    "models": {"people-pieces": {"training": {"corpus": "told"}, "collapse": {"arms": []}}},
    "run": {"models": ["people-pieces"], "experiments": []},
}  # fmt: skip


@pytest.fixture(scope="module")
def checkout(check_out, tmp_path_factory):
    return check_out(tmp_path_factory.mktemp("written"))


def test_the_key_is_asked_for_before_any_job_and_not_once_answers_are_complete(checkout, monkeypatch):
    target = "results/models/people-pieces/seed-0"
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    stopped = checkout.snakemake(target, "--dry-run", config=TOLD)
    assert stopped.status != 0
    assert "corpora.told: not all answers are in answers/told.jsonl, and ANTHROPIC_API_KEY is not set" in stopped.text

    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-of-a-test")
    planned = checkout.snakemake(target, "--dry-run", config=TOLD).passed()
    assert {"generate_api_corpus told", "train_model people-pieces 0"} <= planned.jobs()
    assert "secret-of-a-test" not in planned.text

    monkeypatch.delenv("ANTHROPIC_API_KEY")
    default, *users = (
        yaml.safe_load((checkout.folder / f"config/{name}.yaml").read_text()) for name in ("config", "smoke", "user")
    )
    mark = written.fingerprint(config.read_config(default, merge.merge_mappings(*users)), "told")
    (checkout.folder / "answers").mkdir()
    (checkout.folder / "answers/told.jsonl").write_text(json.dumps({"complete": mark}) + "\n")
    planned = checkout.snakemake(target, "--dry-run", config=TOLD).passed()
    assert "generate_api_corpus told" in planned.jobs()


def test_a_local_writer_is_made_before_what_it_writes(checkout):
    planned = checkout.snakemake("results/corpora/own/documents.parquet", "--dry-run", config=TOLD | {"run": {}})
    assert {"generate_written_corpus own", "train_model functions 0"} <= planned.passed().jobs()
