"""Costs from benchmark files, whose paths give rule, model, seed and name."""

from __future__ import annotations

import json
import math

import pytest

from factlife.costs import collect_costs


def write(folder, path, *lines):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("path", "job"),
    [
        ("generate_world/people", ["generate_world", "", "", "people"]),
        ("train_model/people-pieces/seed-3", ["train_model", "people-pieces", "3", ""]),
        ("edit_model/small/seed-0/rome", ["edit_model", "small", "0", "rome"]),
        ("grow/arm/seed-1/generation-2", ["grow", "arm", "1", "generation-2"]),
        ("trace/people/small/seed-0.long/x", ["trace", "small", "0", "people/long/x"]),
    ],
)
def test_the_path_identifies_the_job(tmp_path, path, job):
    write(tmp_path, f"{path}.benchmark.jsonl", {"s": 1.5, "cpu_time": 2, "max_rss": 30.25})
    rows = collect_costs(tmp_path)
    assert rows[["rule", "model", "seed", "name"]].drop_duplicates().to_numpy().tolist() == [job]
    assert dict(zip(rows["metric"], rows["estimate"], strict=True)) == {
        "seconds": 1.5,
        "cpu_seconds": 2.0,
        "peak_memory_mb": 30.25,
        "startup_seconds": pytest.approx(math.nan, nan_ok=True),
    }


def test_last_run_counts_and_unmeasured_is_null(tmp_path):
    write(tmp_path, "a/b.benchmark.jsonl", {"s": 9}, {"s": 1.0, "cpu_time": "NA", "max_rss": None})
    write(tmp_path, "a/empty.benchmark.jsonl")
    found = collect_costs(tmp_path).set_index("metric")["estimate"]
    assert found["seconds"] == 1.0 and math.isnan(found["cpu_seconds"]) and math.isnan(found["peak_memory_mb"])
    assert len(found) == 4


def test_start_up_is_read_from_logs_and_its_share_counts_jobs_that_have_both(tmp_path):
    for name, seconds, said in [
        ("a", 10, "start-up took 1.50 seconds"),
        ("b", 2, "so it did"),
        ("c", 20, None),
    ]:
        write(tmp_path, f"make/{name}.benchmark.jsonl", {"s": seconds, "cpu_time": 1, "max_rss": 1})
        if said:
            (tmp_path / f"make/{name}.log").write_text(f"2026-11-21 root {said}\nmore\n")
    write(tmp_path, "make/d.benchmark.jsonl", {"s": 5, "cpu_time": 1, "max_rss": 1})
    (tmp_path / "make/d.log").write_text("start-up took 1.50 seconds\n")
    found = collect_costs(tmp_path)
    startup = found[found["metric"] == "startup_seconds"].set_index("name")["estimate"].to_dict()
    assert startup == pytest.approx({"a": 1.5, "b": math.nan, "c": math.nan, "d": 1.5}, nan_ok=True)
    assert found.iloc[-1].tolist() == ["all", "", "", "", "startup_fraction", 3.0 / 15.0]
