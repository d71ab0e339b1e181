import pandas as pd

from factlife.influence import figures


def test_a_panel_is_drawn_where_a_score_has_more_than_one_setting():
    values = [("few", "mrr", 0.5), ("many", "mrr", 0.7), ("few", "lds", 0.3), ("few", "r_precision", 0.1)]
    table = pd.DataFrame(
        [
            {"model": model, "ranker": "bm25", "metric": metric, "estimate": value, "ci_low": value, "ci_high": value}
            for model, metric, value in values
        ]
    ).assign(seed="0", group="all", depth="all", query_set="all", relevance="chain", document_kind="all", k=None)
    points = [
        {"value": value, "model": model, "ranker": "bm25", "curve": "BM25"}
        for value, model in ((3, "few"), (12, "many"))
    ]
    chart = figures.plot_sweeps(
        table, {"documents": {"title": "documents", "log_scale": False, "points": points}}
    ).to_dict()
    (row,) = chart["vconcat"]
    assert [panel["layer"][1]["encoding"]["y"]["title"] for panel in row["hconcat"]] == ["reciprocal rank"]


def test_the_best_rankers_have_their_own_colours_and_random_is_shown_only_if_it_was_run():
    def colours(rankers):
        rows = [(ranker, metric, i) for i, ranker in enumerate(rankers) for metric in ("mrr", "recall")]
        table = pd.DataFrame(rows, columns=["ranker", "metric", "estimate"]).assign(
            model="m", seed="0", group="base", query_set="all", relevance="chain", document_kind="all", k=5,
            ci_low=0.0, ci_high=1.0,
        )  # fmt: skip
        scale = figures.plot_recall_at_k(table).to_dict()["spec"]["layer"][1]["encoding"]["color"]["scale"]
        return dict(zip(scale["domain"], scale["range"], strict=True))

    many = colours(["random", *map(str, range(12))])
    assert list(many) == [*map(str, range(11, 2, -1)), "random"] and len(set(many.values())) == 10
    assert list(colours(["a", "b"])) == ["b", "a"]
