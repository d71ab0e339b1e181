import json
from collections import Counter

import pytest

from factlife.circuits.seeds import compare_seeds, count_connections, export_circuit, weighted_jaccard, write_circuits


def circuit(*inside):
    edges = ["input->a0.h0<q>", "input->a0.h1<q>", "input->m0", "a0.h0->m0", "a0.h1->m0", "m0->logits"]
    about = {"relation": "major", "method": "EAP-IG-inputs", "fraction": 0.5}
    return {"edges": {name: {"score": 1.0, "in_graph": name in inside} for name in edges}, "factlife": about}


@pytest.fixture
def paths(tmp_path):
    """Two seeds that use another head each, and one that uses no head."""
    asked = (
        ("input->a0.h0<q>", "a0.h0->m0", "m0->logits"),
        ("input->a0.h1<q>", "a0.h1->m0", "m0->logits"),
        ("input->m0", "m0->logits"),
    )
    found = []
    for seed, inside in enumerate(asked):
        found.append(tmp_path / f"people/seed-{seed}/major.EAP-IG-inputs.json")
        found[-1].parent.mkdir(parents=True)
        found[-1].write_text(json.dumps(circuit(*inside)))
    return found


def test_heads_of_a_layer_count_together(paths):
    rows = compare_seeds(paths)
    same = rows[rows["control"] == ""].set_index(["seed", "evaluated_on"])["estimate"]

    assert same.to_dict() == {(0, "seed-1"): 1.0, (0, "seed-2"): 1 / 4, (1, "seed-2"): 1 / 4}
    assert set(rows["model"]) == {"people"} and set(rows["relation"]) == {"major"}


def test_chance_spreads_as_many_edges_evenly(paths):
    rows = compare_seeds(paths[:2]).set_index("control")["estimate"]

    # Three of six edges: 1, .5, 1 and .5 by connection, against 1, 0, 1 and 1.
    assert rows["random"] == pytest.approx((1 + 0 + 1 + 0.5) / (1 + 0.5 + 1 + 1))


def test_overlap_by_hand():
    assert weighted_jaccard(Counter(a=2, b=1), Counter(a=1, c=1)) == 1 / 4
    assert weighted_jaccard(Counter(), Counter()) == 1.0
    assert count_connections(circuit("input->a0.h0<q>"))[1] == {
        "input->a0<q>": 2, "input->m0": 1, "a0->m0": 2, "m0->logits": 1
    }  # fmt: skip


def test_one_seed_has_no_rows(paths):
    assert compare_seeds(paths[:1]).empty


def test_a_circuit_is_exported_by_relation_and_method(tmp_path):
    circuits = {
        ("major", "EAP"): circuit("m0->logits"),
        ("major", "exact"): circuit("input->m0"),
        ("employer", "EAP"): circuit(),
    }
    write_circuits(circuits, tmp_path / "circuits.json", provenance={"seed": 3})

    export_circuit(tmp_path / "circuits.json", tmp_path / "one.json", relation="major", method="exact", model="mine")

    exported = json.loads((tmp_path / "one.json").read_text())
    assert exported == circuit("input->m0") | {"provenance": {"seed": 3}}


def test_a_circuit_that_was_not_discovered_cannot_be_exported(tmp_path):
    write_circuits({("major", "EAP"): circuit()}, tmp_path / "circuits.json", provenance={})

    with pytest.raises(ValueError, match=r"no circuit of relation `height` and method `EAP`; there are major\.EAP"):
        export_circuit(tmp_path / "circuits.json", tmp_path / "one.json", relation="height", method="EAP")
    assert not (tmp_path / "one.json").exists()
