"""What figures of circuits say is what the table says."""

from __future__ import annotations

import numpy as np
import pandas as pd

from factlife import figures
from factlife.circuits import figures as circuit_figures


def row(relation, evaluated_on, metric, estimate, **more):
    keys = {
        "model": "m",
        "seed": 0,
        "relation": relation,
        "method": "EAP",
        "control": np.nan,
        "n_edges": np.nan,
        "step": np.nan,
    }
    return keys | {"evaluated_on": evaluated_on, "metric": metric, "estimate": estimate} | more


def test_relations_shows_circuits_at_their_own_size_and_no_control(tmp_path):
    table = pd.DataFrame(
        [
            row("city", "validation", "faithfulness", 0.91),
            row("major", "validation", "faithfulness", 0.92),
            row("city", "major", "faithfulness", 0.33),
            row("major", "city", "faithfulness", 0.34),
            row("city", "major", "jaccard", 0.21),
            row("major", "city", "jaccard", 0.21),
            # None of these is a relation's circuit of its size on a relation.
            row("city", "question", "faithfulness", 0.55),
            row("city", "validation", "faithfulness", 0.66, n_edges=30.0),
            row("city", "validation", "faithfulness", 0.77, control="random_weights"),
        ]
    )
    figures.write_svg(circuit_figures.plot_relation_transfer(table), tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    found = [text.count(f">{number}<") for number in ("0.91", "0.92", "0.33", "0.34", "0.21", "1.00")]
    assert found == [1, 1, 1, 1, 2, 2]
    assert not any(f">{number}<" in text for number in ("0.55", "0.66", "0.77"))
