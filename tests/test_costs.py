"""Costs are read from benchmark files whose paths tell rule, model, seed and name."""

from __future__ import annotations

import json
import math

import pytest

from factlife.costs import collect


def write(folder, path, *lines):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("path", "job"),
    [
        ("make_world/people", ["make_world", "", "", "people"]),
        ("train_model/people-pieces/seed-3", ["train_model", "people-pieces", "3", ""]),
        ("edit_model/small/seed-0/rome", ["edit_model", "small", "0", "rome"]),
        ("grow/arm/seed-1/generation-2", ["grow", "arm", "1", "generation-2"]),
        ("trace/people/small/seed-0.long/x", ["trace", "small", "0", "people/long/x"]),
    ],
)
def test_job_is_told_by_its_path(tmp_path, path, job):
    write(tmp_path, f"{path}.benchmark.jsonl", {"s": 1.5, "cpu_time": 2, "max_rss": 30.25})
    rows = collect(tmp_path)
    assert rows[["rule", "model", "seed", "name"]].drop_duplicates().to_numpy().tolist() == [job]
    assert dict(zip(rows["metric"], rows["estimate"], strict=True)) == {
        "seconds": 1.5,
        "cpu_seconds": 2.0,
        "peak_memory_mb": 30.25,
    }


def test_last_run_counts_and_unmeasured_is_null(tmp_path):
    write(tmp_path, "a/b.benchmark.jsonl", {"s": 9}, {"s": 1.0, "cpu_time": "NA", "max_rss": None})
    write(tmp_path, "a/empty.benchmark.jsonl")
    found = collect(tmp_path).set_index("metric")["estimate"]
    assert found["seconds"] == 1.0 and math.isnan(found["cpu_seconds"]) and math.isnan(found["peak_memory_mb"])
    assert len(found) == 3
