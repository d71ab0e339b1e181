"""What each stage says of each fact of one model: every function returns a table indexed by ``fact_id``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer

from factlife.world import World

# Faithfulness from which a circuit counts as one.
_ENOUGH = 0.9


def fact_columns(world: World) -> pd.DataFrame:
    """Who and what: all facts of a world."""
    names = world.entities.set_index("entity_id")["name"].rename("subject")
    table = world.facts.join(names, on="entity_id").set_index("fact_id")
    return table[["entity_id", "subject", "relation", "value", "panel", "exposures"]]


def name_columns(world: World, folder: str | Path) -> pd.DataFrame:
    """Into how many tokens the tokenizer in a model's folder cuts the subject's name, special tokens apart."""
    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    subjects = fact_columns(world)["subject"]
    tokens = {name: len(tokenizer.encode(name, add_special_tokens=False)) for name in subjects.unique()}
    return subjects.map(tokens).rename("n_subject_tokens").to_frame()


def document_columns(documents: pd.DataFrame) -> pd.DataFrame:
    """Training documents that state a fact, counted."""
    stated = documents.loc[documents["split"] == "train", "fact_ids"].explode().dropna()
    return stated.value_counts().rename("n_supporting_documents").rename_axis("fact_id").to_frame()


def recall_columns(scores: pd.DataFrame) -> pd.DataFrame:
    """When a fact was learned, and how well it is known in the end.

    Args:
        scores: every probe at every checkpoint, as ``results/recall`` has them.
    """
    forward = scores[(scores["kind"] == "forward") & scores["representable"]]
    right = forward.pivot_table(index="fact_id", columns="step", values="first_token_correct", aggfunc="mean") >= 0.5
    # From the end backwards: right here and at every later checkpoint.
    lasting = right.iloc[:, ::-1].cummin(axis=1).iloc[:, ::-1].astype(bool)
    learned = lasting.idxmax(axis=1).where(lasting.any(axis=1))
    stated = forward.groupby(["fact_id", "step"])["exposures"].max().unstack("step")
    last = forward[forward["step"] == forward["step"].max()].groupby("fact_id")
    return pd.DataFrame(
        {
            "step_learned": learned,
            "exposures_to_learn": stated.where(stated.columns.to_numpy() == learned.to_numpy()[:, None]).max(axis=1),
            "final_recall": last["first_token_correct"].mean(),
            "final_loss": last["loss_nats"].mean(),
            "final_rank": last["rank"].mean(),
        }
    ).astype(float)


def tracing_columns(traces: pd.DataFrame) -> pd.DataFrame:
    """Where a fact is: the token and layer whose MLP brings most of the answer back.

    Args:
        traces: causal tracing, as ``results/tracing`` has it; replacement and windows of one layer count.
    """
    mlp = traces[(traces["corruption"] == "replacement") & (traces["component"] == "mlp") & (traces["window"] == 1)]
    lost = mlp["clean_logit_diff"] - mlp["corrupted_logit_diff"]
    mlp = mlp.assign(tracing_effect=(mlp["indirect_effect_logit_diff"] / lost).where(lost > 0)).dropna(
        subset="tracing_effect"
    )
    peak = mlp.loc[mlp.groupby("fact_id")["tracing_effect"].idxmax()].set_index("fact_id")
    return peak.rename(columns={"token_role": "tracing_token", "layer": "tracing_layer"})[
        ["tracing_token", "tracing_layer", "tracing_effect"]
    ].astype({"tracing_layer": float})


def influence_columns(judged: pd.DataFrame) -> pd.DataFrame:
    """How well each ranker finds the documents that state a fact.

    Args:
        judged: rankings compared with what documents state, query by query, as ``results/influence`` has them.
    """
    whole = judged[(judged["relevance"] == "chain") & (judged["document_kind"] == "all")]
    found = whole[whole["metric"].isin(["mrr", "r_precision"])].groupby(["fact_id", "metric", "ranker"])["value"].mean()
    table = found.unstack(["metric", "ranker"]).sort_index(axis=1)
    # One over the place of the first document that states it, so that the place itself can be read.
    rank = (1 / table["mrr"]).add_prefix("influence_rank_")
    return rank.join(table["r_precision"].add_prefix("influence_r_precision_"))


def edit_columns(judged: pd.DataFrame) -> pd.DataFrame:
    """Whether each editor's new value is said, once all edits of its schedule are made.

    Args:
        judged: every probe of every edit, as ``results/edits`` has them; ``single`` edits are judged one by one.
    """
    made = judged[judged["phase"] == judged["schedule"].eq("single").map({True: "post", False: "end"})]
    parts = [
        made[made["metric"] == metric].groupby(["edit_id", "editor"])["argmax"].mean().unstack().add_prefix(prefix)
        for metric, prefix in (("efficacy", "edit_efficacy_"), ("paraphrase", "edit_paraphrase_"))
    ]
    return parts[0].join(parts[1]).astype(float).rename_axis("fact_id")


def request_columns(requests: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Why a fact of the panel has no edit.

    Args:
        requests: of the model, as ``results/requests`` has them, those that were dropped with the reason.
        facts: all facts of the world, indexed by ``fact_id``.
    """
    asked = requests.drop_duplicates("fact_id").set_index("fact_id")["dropped"]
    left_out = facts.index[facts["panel"] & ~facts.index.isin(asked.index)]
    beyond = pd.Series(f"not among the {len(requests)} requests (editing.models.….requests.count)", index=left_out)
    why = pd.concat([asked[asked != ""], beyond]).rename("not_edited_reason").rename_axis("fact_id")
    return why.to_frame()


def edit_site_columns(tried: pd.DataFrame) -> pd.DataFrame:
    """Where a fact is best edited: by the mean of efficacy, paraphrase and neighbourhood.

    Of one fact a share is often 0, which a harmonic mean would not tell apart. Where places are equally good, the layer is
    their mean, and the token is null unless it is the same in all.

    Args:
        tried: every probe of every edit at every token and layer, as ``results/places`` has them.
    """
    keys = ["edit_id", "layer", "token"]
    counted = tried[tried["metric"].isin(["efficacy", "paraphrase", "neighbourhood"])]
    by_metric = counted.groupby([*keys, "metric"], observed=True)["argmax"].mean()
    score = by_metric.groupby(level=keys, observed=True).mean().reset_index()
    best = score[score["argmax"] == score.groupby("edit_id")["argmax"].transform("max")].groupby("edit_id")
    token = best["token"].first().where(best["token"].nunique() == 1)
    table = {"n_best_edit_sites": best.size(), "best_edit_token": token, "best_edit_layer": best["layer"].mean()}
    return pd.DataFrame(table).rename_axis("fact_id").astype({"best_edit_layer": float, "n_best_edit_sites": float})


def survival_columns(followed: pd.DataFrame) -> pd.DataFrame:
    """Whether edits are left at the last step of further training, of those that were right before it.

    Args:
        followed: every fact at every step, as ``results/survival`` has them; depths of training count alike.
    """
    edited = followed[followed["group"] == "edits"]
    keys = ["editor", "finetuning", "data", "trained_layers", "fact_id"]
    steps = edited.groupby(keys, observed=True)["step"]
    first, last = (
        edited[edited["step"] == at].set_index(keys)["correct"].astype(float)
        for at in (steps.transform("min"), steps.transform("max"))
    )
    left = last.where(first == 1).groupby(level=["fact_id", "editor", "finetuning", "data"], observed=True).mean()
    table = left.unstack(["editor", "finetuning", "data"])
    return table.set_axis(["edit_retention_" + "_".join(each) for each in table.columns], axis=1)


def circuit_columns(evaluated: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """The circuit of a fact's relation: how well it stands for the model, and how few edges do.

    Args:
        evaluated: circuits of all relations, as ``results/circuits`` has them; the first method counts.
        facts: all facts of the world, indexed by ``fact_id``.
    """
    of = evaluated[(evaluated["method"] == evaluated["method"].iloc[0]) & (evaluated["evaluated_on"] == "validation")]
    of = of[(of["metric"] == "faithfulness") & of["control"].isin(["", None]) & of["step"].isna()]
    chosen, curve = of[of["n_edges"].isna()], of[of["estimate"] >= _ENOUGH]
    table = pd.DataFrame(
        {
            "circuit_faithfulness": chosen.groupby("relation")["estimate"].mean(),
            "n_circuit_edges": curve.groupby("relation")["n_edges"].min(),
        }
    )
    return facts[["relation"]].join(table, on="relation").drop(columns="relation").astype(float)


def collapse_columns(arm: str, generations: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """For how many generations a fact lasts.

    Args:
        arm: the chain's name.
        generations: every probe of generation 0, 1, …, as ``results/collapse`` has them.
    """
    forward = [scores[(scores["kind"] == "forward") & scores["representable"]] for scores in generations]
    known = pd.DataFrame(
        {n: scores.groupby("fact_id")["first_token_correct"].mean() >= 0.5 for n, scores in enumerate(forward)}
    )
    lasted = known.astype(int).cumprod(axis=1).sum(axis=1) - 1
    return lasted.where(lasted >= 0).rename(f"generations_recalled_{arm}").to_frame()
