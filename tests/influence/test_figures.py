import pandas as pd

from factlife.influence import figures


def test_a_panel_is_drawn_where_a_score_has_more_than_one_setting():
    measured = [("few", "mrr", 0.5), ("many", "mrr", 0.7), ("few", "lds", 0.3), ("few", "r_precision", 0.1)]
    table = pd.DataFrame(
        [
            {"model": model, "ranker": "bm25", "metric": metric, "estimate": value, "ci_low": value, "ci_high": value}
            for model, metric, value in measured
        ]
    ).assign(seed="0", group="all", depth="all", answered="all", credit="chain", document_kind="all", k=None)
    points = [{"at": at, "model": model, "ranker": "bm25", "curve": "BM25"} for at, model in ((3, "few"), (12, "many"))]
    chart = figures.sweeps(table, {"documents": {"title": "documents", "log": False, "points": points}}).to_dict()
    (row,) = chart["vconcat"]
    assert [panel["layer"][1]["encoding"]["y"]["title"] for panel in row["hconcat"]] == ["reciprocal rank"]
