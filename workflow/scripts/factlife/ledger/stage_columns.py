"""The ledger's columns for one model, stage by stage: every function returns a table indexed by ``fact_id``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer

from factlife.world import World

# The smallest circuit must reach this faithfulness.
_MIN_FAITHFULNESS = 0.9


def fact_columns(world: World) -> pd.DataFrame:
    """Subject, relation, value and exposures of all facts of a world."""
    names = world.entities.set_index("entity_id")["name"].rename("subject")
    table = world.facts.join(names, on="entity_id").set_index("fact_id")
    return table[["entity_id", "subject", "relation", "value", "panel", "exposures"]]


def name_columns(world: World, model_folder: str | Path) -> pd.DataFrame:
    """Number of tokens in the subject's name, without special tokens, by the tokenizer in a model's folder."""
    tokenizer = Tokenizer.from_file(str(Path(model_folder) / "tokenizer.json"))
    subjects = fact_columns(world)["subject"]
    n_tokens = {name: len(tokenizer.encode(name, add_special_tokens=False)) for name in subjects.unique()}
    return subjects.map(n_tokens).rename("n_subject_tokens").to_frame()


def document_columns(documents: pd.DataFrame) -> pd.DataFrame:
    """Number of training documents that state a fact."""
    fact_ids = documents.loc[documents["split"] == "train", "fact_ids"].explode().dropna()
    return fact_ids.value_counts().rename("n_supporting_documents").rename_axis("fact_id").to_frame()


def recall_columns(scores: pd.DataFrame) -> pd.DataFrame:
    """When a fact is learned, and how well the model recalls it at the end of training.

    Args:
        scores: every probe at every checkpoint, as in ``results/recall``.
    """
    forward = scores[(scores["kind"] == "forward") & scores["representable"]]
    is_recalled = (
        forward.pivot_table(index="fact_id", columns="step", values="first_token_correct", aggfunc="mean") >= 0.5
    )
    # Cumulative minimum from the last checkpoint backwards: recalled at this and at every later checkpoint.
    is_learned = is_recalled.iloc[:, ::-1].cummin(axis=1).iloc[:, ::-1].astype(bool)
    step_learned = is_learned.idxmax(axis=1).where(is_learned.any(axis=1))
    exposures = forward.groupby(["fact_id", "step"])["exposures"].max().unstack("step")
    last = forward[forward["step"] == forward["step"].max()].groupby("fact_id")
    return pd.DataFrame(
        {
            "step_learned": step_learned,
            "exposures_to_learn": exposures.where(exposures.columns.to_numpy() == step_learned.to_numpy()[:, None]).max(
                axis=1
            ),
            "final_recall": last["first_token_correct"].mean(),
            "final_loss": last["loss_nats"].mean(),
            "final_rank": last["rank"].mean(),
        }
    ).astype(float)


def tracing_columns(traces: pd.DataFrame) -> pd.DataFrame:
    """The token and layer whose MLP, restored alone, recovers most of the answer.

    Args:
        traces: causal tracing, as in ``results/tracing``; only replacement and windows of one layer are used.
    """
    mlp = traces[(traces["corruption"] == "replacement") & (traces["component"] == "mlp") & (traces["window"] == 1)]
    total_effect = mlp["clean_logit_diff"] - mlp["corrupted_logit_diff"]
    mlp = mlp.assign(tracing_effect=(mlp["indirect_effect_logit_diff"] / total_effect).where(total_effect > 0)).dropna(
        subset="tracing_effect"
    )
    peak = mlp.loc[mlp.groupby("fact_id")["tracing_effect"].idxmax()].set_index("fact_id")
    return peak.rename(columns={"token_role": "tracing_token", "layer": "tracing_layer"})[
        ["tracing_token", "tracing_layer", "tracing_effect"]
    ].astype({"tracing_layer": float})


def influence_columns(evaluated: pd.DataFrame) -> pd.DataFrame:
    """How well each ranker finds the documents that state a fact.

    Args:
        evaluated: metrics of each ranking by query, as in ``results/influence/….queries.parquet``.
    """
    rows = evaluated[(evaluated["relevance"] == "chain") & (evaluated["document_kind"] == "all")]
    means = rows[rows["metric"].isin(["mrr", "r_precision"])].groupby(["fact_id", "metric", "ranker"])["value"].mean()
    table = means.unstack(["metric", "ranker"]).sort_index(axis=1)
    # The reciprocal of the reciprocal rank is the rank of the first document that states the fact.
    rank = (1 / table["mrr"]).add_prefix("influence_rank_")
    return rank.join(table["r_precision"].add_prefix("influence_r_precision_"))


def edit_columns(evaluated: pd.DataFrame) -> pd.DataFrame:
    """Efficacy and paraphrase accuracy of each editor after all edits of its schedule.

    Args:
        evaluated: every probe of every edit, as in ``results/edits``; ``single`` edits are evaluated one at a time.
    """
    final = evaluated[evaluated["phase"] == evaluated["schedule"].eq("single").map({True: "post", False: "end"})]
    parts = [
        final[final["metric"] == metric].groupby(["edit_id", "editor"])["argmax"].mean().unstack().add_prefix(prefix)
        for metric, prefix in (("efficacy", "edit_efficacy_"), ("paraphrase", "edit_paraphrase_"))
    ]
    return parts[0].join(parts[1]).astype(float).rename_axis("fact_id")


def request_columns(requests: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Why a fact of the panel was not edited.

    Args:
        requests: the model's edit requests, as in ``results/requests``; dropped ones with the reason.
        facts: all facts of the world, indexed by ``fact_id``.
    """
    reasons = requests.drop_duplicates("fact_id").set_index("fact_id")["dropped"]
    not_requested = facts.index[facts["panel"] & ~facts.index.isin(reasons.index)]
    default = pd.Series(
        f"not among the {len(requests)} requests (editing.models.….requests.count)", index=not_requested
    )
    table = pd.concat([reasons[reasons != ""], default]).rename("not_edited_reason").rename_axis("fact_id")
    return table.to_frame()


def edit_site_columns(evaluated: pd.DataFrame) -> pd.DataFrame:
    """The token and layer at which a fact is best edited, by the mean of efficacy, paraphrase and neighbourhood.

    A harmonic mean would not do: for a single fact one of the three is often 0. If several sites are equally good, the
    layer is their mean, and the token is null unless they share it.

    Args:
        evaluated: every probe of every edit at every token and layer, as in ``results/edit_sites``.
    """
    keys = ["edit_id", "layer", "fact_token"]
    accuracy = evaluated[evaluated["metric"].isin(["efficacy", "paraphrase", "neighbourhood"])]
    by_metric = accuracy.groupby([*keys, "metric"], observed=True)["argmax"].mean()
    score = by_metric.groupby(level=keys, observed=True).mean().reset_index()
    best = score[score["argmax"] == score.groupby("edit_id")["argmax"].transform("max")].groupby("edit_id")
    token = best["fact_token"].first().where(best["fact_token"].nunique() == 1)
    table = {"n_best_edit_sites": best.size(), "best_edit_token": token, "best_edit_layer": best["layer"].mean()}
    return pd.DataFrame(table).rename_axis("fact_id").astype({"best_edit_layer": float, "n_best_edit_sites": float})


def survival_columns(evaluated: pd.DataFrame) -> pd.DataFrame:
    """Whether an edit survives further training, if it was correct before.

    Args:
        evaluated: every fact at every step, as in ``results/survival``; averaged over sets of trained layers.
    """
    edited = evaluated[evaluated["group"] == "edits"]
    keys = ["editor", "finetuning", "data", "trained_layers", "fact_id"]
    steps = edited.groupby(keys, observed=True)["step"]
    first, last = (
        edited[edited["step"] == step].set_index(keys)["correct"].astype(float)
        for step in (steps.transform("min"), steps.transform("max"))
    )
    retention = last.where(first == 1).groupby(level=["fact_id", "editor", "finetuning", "data"], observed=True).mean()
    table = retention.unstack(["editor", "finetuning", "data"])
    return table.set_axis(["edit_retention_" + "_".join(keys) for keys in table.columns], axis=1)


def circuit_columns(evaluated: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Faithfulness of the circuit of a fact's relation, and the number of edges that suffice.

    Args:
        evaluated: evaluated circuits of all relations, as in ``results/circuits``; only the first method is used.
        facts: all facts of the world, indexed by ``fact_id``.
    """
    rows = evaluated[(evaluated["method"] == evaluated["method"].iloc[0]) & (evaluated["evaluated_on"] == "validation")]
    rows = rows[(rows["metric"] == "faithfulness") & rows["control"].isin(["", None]) & rows["step"].isna()]
    circuit, curve = rows[rows["n_edges"].isna()], rows[rows["estimate"] >= _MIN_FAITHFULNESS]
    table = pd.DataFrame(
        {
            "circuit_faithfulness": circuit.groupby("relation")["estimate"].mean(),
            "n_circuit_edges": curve.groupby("relation")["n_edges"].min(),
        }
    )
    return facts[["relation"]].join(table, on="relation").drop(columns="relation").astype(float)


def collapse_columns(arm: str, generations: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Number of generations that recall a fact without interruption.

    Args:
        arm: the arm's name.
        generations: every probe of generation 0, 1, …, as in ``results/collapse``.
    """
    forward = [scores[(scores["kind"] == "forward") & scores["representable"]] for scores in generations]
    is_recalled = pd.DataFrame(
        {
            generation: scores.groupby("fact_id")["first_token_correct"].mean() >= 0.5
            for generation, scores in enumerate(forward)
        }
    )
    n_generations = is_recalled.astype(int).cumprod(axis=1).sum(axis=1) - 1
    return n_generations.where(n_generations >= 0).rename(f"generations_recalled_{arm}").to_frame()
