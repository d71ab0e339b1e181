"""Published effects and their reproduction: the paper's number, the run's measurement and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from factlife import stats
from factlife.ledger.summary_tables import (
    NotMeasuredError,
    Tables,
    first_row,
    get_table,
    pooled_rows,
    ranker_difference,
    select_first,
    select_rows,
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A published effect.

    Attributes:
        effect: the claim.
        source: the paper.
        published: the paper's number.
        measurement: the quantity that the run measures instead.
        measure: returns the row of estimate and interval from a run's tables, and the bound that the claim sets.
        claimed_above: whether the claim puts the estimate above the bound; otherwise below.
    """

    effect: str
    source: str
    published: str
    measurement: str
    measure: Callable[[Tables], tuple[Row, float]]
    claimed_above: bool = True


def evaluate_claims(tables: Tables) -> pd.DataFrame:
    """Compare every claim with a run's tables.

    A claim is reproduced if the whole interval lies on the claimed side of the bound, not reproduced if it lies on the
    other side, and unclear if the interval contains the bound.

    Args:
        tables: summaries by name, such as ``edits``, with the columns of ``results/tables``.

    Returns:
        ``effect, source, published, measurement, n, estimate, ci_low, ci_high, interval_over, bound, claimed_above, verdict``, one row per claim.
    """
    return pd.DataFrame([_evaluate_claim(claim, tables) for claim in CLAIMS])


def claims_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, for ``docs/reproductions.md``."""
    lines = ["| effect | published | this run | verdict |", "|---|---|---|---|"]
    lines += [
        f"| {row.effect} ({row.source}) | {row.published} | {_measured_text(row)} | **{row.verdict}** |"
        for row in table.itertuples()
    ]
    return "\n".join(lines) + "\n"


def claims_page(table: pd.DataFrame) -> str:
    """The table as an HTML page, for the report."""
    cells = "".join(
        f"<tr><td>{escape(row.effect)}<small>{escape(row.source)}</small></td><td>{escape(row.published)}</td>"
        f"<td>{escape(_measured_text(row))}</td><td class='{row.verdict.replace(' ', '-')}'>{row.verdict}</td></tr>"
        for row in table.itertuples()
    )
    head = "".join(f"<th>{name}</th>" for name in ("effect", "published", "this run", "verdict"))
    return (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Published effects</title><style>{_STYLE}</style>'
        f"<h1>Published effects, in this run</h1><table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></html>"
    )


_STYLE = """
body { font: 15px/1.45 Helvetica, Arial, sans-serif; color: #222; max-width: 72rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } table { border-collapse: collapse; } small { display: block; color: #777; }
th, td { text-align: left; vertical-align: top; padding: .45rem 1.2rem .45rem 0; border-bottom: 1px solid #e5e5e5; }
td:last-child { white-space: nowrap; font-weight: 600; }
.reproduced { color: #0072b2; } .not-reproduced { color: #d55e00; } .unclear { color: #7a6a00; }
.not-measured { color: #999; font-weight: 400; }
"""


def _measured_text(row: Any) -> str:
    if row.verdict == "not measured":
        return row.measurement
    claimed = f"claimed {'above' if row.claimed_above else 'below'} {row.bound:g}"
    measured = f"{_format_short(row.estimate)} [{_format_short(row.ci_low)}, {_format_short(row.ci_high)}]"
    return f"{row.measurement}: {measured}, n = {row.n:.0f}; {claimed}"


def _evaluate_claim(claim: Claim, tables: Tables) -> dict[str, Any]:
    description = {
        "effect": claim.effect,
        "source": claim.source,
        "published": claim.published,
        "measurement": claim.measurement,
    }
    try:
        row, bound = claim.measure(tables)
    except NotMeasuredError:
        return description | {"claimed_above": claim.claimed_above, "verdict": "not measured"}
    low, high = (row["ci_low"], row["ci_high"]) if claim.claimed_above else (-row["ci_high"], -row["ci_low"])
    limit = bound if claim.claimed_above else -bound
    verdict = "reproduced" if low > limit else "not reproduced" if high < limit else "unclear"
    numbers = {name: row[name] for name in ("n", "estimate", "ci_low", "ci_high", "interval_over")}
    return description | numbers | {"bound": bound, "claimed_above": claim.claimed_above, "verdict": verdict}


def _format_short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}"


def _effect(tables: Tables, experiment: str, metric: str, arm: str, group: str = "") -> tuple[Row, float]:
    """An arm's difference from its control, and the bound 0."""
    rows = select_rows(get_table(tables, "dynamics"), experiment=experiment, metric=metric, arm=arm)
    row = pooled_rows(select_rows(rows, group=group) if group else rows).iloc[0]
    effect = {"estimate": row["effect"], "ci_low": row["effect_low"], "ci_high": row["effect_high"]}
    return row.to_dict() | effect, 0.0


def _level(tables: Tables, experiment: str, metric: str, arm: str, bound: float, group: str = "") -> tuple[Row, float]:
    """An arm's own value, and a bound."""
    rows = select_rows(get_table(tables, "dynamics"), experiment=experiment, metric=metric, arm=arm)
    return pooled_rows(select_rows(rows, group=group) if group else rows).iloc[0], bound


def _main_effect(tables: Tables, experiment: str, metric: str, factor: str, group: str) -> tuple[Row, float]:
    """The main effect of a crossed factor, and the bound 0."""
    rows = select_rows(get_table(tables, "dynamics"), experiment=experiment, metric=metric, arm="all", group=group)
    return first_row(pooled_rows(rows), factors=factor), 0.0


def _difference(row: Row, control: Row) -> tuple[Row, float]:
    """Estimate minus the control's, and the bound 0. The unpaired interval spans all differences of both intervals."""
    interval = {
        "estimate": row["estimate"] - control["estimate"],
        "ci_low": row["ci_low"] - control["ci_high"],
        "ci_high": row["ci_high"] - control["ci_low"],
    }
    return dict(row) | interval, 0.0


def _paired_difference(rows: pd.DataFrame, control: pd.DataFrame) -> tuple[Row, float]:
    """Estimate minus the control's, paired by seed if there are several, and the bound 0."""
    pairs = rows.merge(control[["seed", "estimate"]], on="seed", suffixes=("", "_control"))
    pairs = pairs[pairs["seed"] != "all"]
    if len(pairs) < 2:
        return _difference(pooled_rows(rows).iloc[0], pooled_rows(control).iloc[0])
    return _mean_over_seeds(pairs.assign(estimate=pairs["estimate"] - pairs["estimate_control"])), 0.0


def _tracing_difference(tables: Tables, model: str, **control: str) -> tuple[Row, float]:
    """Effect of the strongest MLP at the subject's last token minus that of the strongest component at a control site."""
    table = select_rows(
        get_table(tables, "tracing"), corruption="replacement", metric="indirect_effect", window=1, model=model
    )
    site = {"component": "mlp", "token_role": "subject_last"}
    mlp, component = (select_first(select_rows(table, **keys), "seed") for keys in (site, site | control))
    return _difference(mlp.loc[mlp["estimate"].idxmax()], component.loc[component["estimate"].idxmax()])


def _editor_rows(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Rows of the editor named after its kind, or else of the default scenario's, such as ``people-memit``."""
    return select_rows(table, editor=kind if (table["editor"] == kind).any() else f"people-{kind}")


def _edit_metric(tables: Tables, editor: str, metric: str, criterion: str = "probability") -> pd.DataFrame:
    """A metric of an editor after all its edits, by seed."""
    edits = _editor_rows(select_first(get_table(tables, "edits"), "model"), editor)
    table = select_rows(edits, metric=metric, criterion=criterion)
    final = select_rows(table, phase="post" if (table["schedule"] == "single").all() else "end")
    return final[final["n_edits"] == final["n_edits"].max()]


def _mean_over_seeds(rows: pd.DataFrame) -> pd.Series:
    """The mean over seeds with Student's t interval; a single row is returned unchanged."""
    if len(rows) == 1:
        return rows.iloc[0]
    seeds = rows[["estimate"]].agg(["mean", "std", "count"]).T
    low, high = stats.seed_interval(seeds["mean"], seeds["std"], seeds["count"])
    columns = {"estimate": seeds["mean"].item(), "ci_low": low.item(), "ci_high": high.item(), "n": len(rows)}
    return pd.Series(rows.iloc[0].to_dict() | columns | {"interval_over": "seeds"})


def _flip_difference(tables: Tables, data: str) -> tuple[Row, float]:
    """Flip rate of edits under further training minus that of facts never edited."""
    survival = _editor_rows(select_first(get_table(tables, "edit_survival"), "model", "seed"), "memit")
    table = select_rows(survival, finetuning="lora")
    final = select_rows(table[table["step"] == table["step"].max()], metric="flip_rate", data=data)
    return _difference(first_row(final, group="edits"), first_row(final, group="control"))


def _bits_per_parameter(tables: Tables) -> tuple[Row, float]:
    """Bits per parameter, unless the model stores nearly all available bits."""
    fraction = _level(tables, "capacity", "final_bits_fraction", "facts-1600-200", 0.0)[0]["estimate"]
    if fraction > _NEARLY_ALL:
        raise NotMeasuredError("the facts end before the parameters do")
    return _level(tables, "capacity", "final_bits_per_parameter", "facts-1600-200", 2.0)


_NEARLY_ALL = 0.95


def _final_generation(tables: Tables, arm: str, metric: str = "recall", group: str = "all") -> pd.DataFrame:
    """The last generation of an arm of the first model, by seed and pooled."""
    table = select_first(get_table(tables, "collapse"), "model")
    table = select_rows(table, metric=metric, arm=arm, group=group)
    return table[table["generation"] == table["generation"].max()]


CLAIMS = [
    Claim(
        "Facts seen in one wording cannot be extracted by questions; facts seen in many wordings can",
        "Allen-Zhu and Li 2023, 2309.14316",
        "9.7 % against 96.6 % of questions about held-out people",
        "exact match on questions about held-out people, many wordings minus one",
        lambda tables: _effect(
            tables, "augmentation", "final_question_exact_match", "multi-permute-fullname", "qa_heldout"
        ),
    ),
    Claim(
        "A model trained from name to value does not learn value to name",
        "Berglund et al. 2023, 2309.12288",
        "GPT-4 on parents: 79 % against 33 %",
        "accuracy of ranking the true name first, trained forward only minus in both directions",
        lambda tables: _effect(tables, "reversal", "final_accuracy", "forward", "reverse"),
        claimed_above=False,
    ),
    Claim(
        "A skewed distribution of people shortens the plateau before facts are learned",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "plateau steps, Zipf minus uniform, 60 people",
        lambda tables: _effect(tables, "imbalance", "plateau_steps", "zipf-60", "frequency weights"),
        claimed_above=False,
    ),
    Claim(
        "A skewed distribution of people shortens the plateau: main effect over numbers of people",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "plateau steps, Zipf minus uniform, over 60 and 120 people",
        lambda tables: _main_effect(tables, "imbalance", "plateau_steps", "zipf", "frequency weights"),
        claimed_above=False,
    ),
    Claim(
        "More people lengthen the plateau",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "plateau steps, 120 people minus 60",
        lambda tables: _effect(tables, "imbalance", "plateau_steps", "uniform-120", "frequency weights"),
    ),
    Claim(
        "Replay preserves some of the facts that new facts overwrite",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "fraction of old facts kept, 20 % replay minus none",
        lambda tables: _effect(tables, "interference", "retention", "replay-20", "old"),
    ),
    Claim(
        "Overconfidence about unseen people grows with training",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "increase in confidence about unseen people, long training minus brief",
        lambda tables: _effect(tables, "hallucination", "confidence_rise", "long", "unseen"),
    ),
    Claim(
        "Models store two bits per parameter",
        "Allen-Zhu and Li 2024, 2404.05405",
        "2 bits per parameter",
        "bits per parameter after 200 exposures of 1,600 facts, unless the model stores them all",
        _bits_per_parameter,
    ),
    Claim(
        "Duplicated facts are learned better than facts read once",
        "Chang et al. 2024, 2406.11813",
        "direction only",
        "increase in log probability (nats), duplicated minus once",
        lambda tables: _effect(tables, "injection", "effectivity", "duplicated"),
    ),
    Claim(
        "MLPs at the subject's last token have larger indirect effects than at the prompt's last token",
        "Meng et al. 2022, 2202.05262",
        "GPT-2 XL: 6.6 % average indirect effect at the early site",
        "indirect effect of the strongest MLP, subject's last token minus last token, names split into several tokens",
        lambda tables: _tracing_difference(tables, "people-pieces", token_role="last"),
    ),
    Claim(
        "The same, for names that are whole words",
        "Meng et al. 2022, 2202.05262",
        "GPT-2 XL: 6.6 % average indirect effect at the early site",
        "the same difference, people with ordinary names",
        lambda tables: _tracing_difference(tables, "people-ordinary", token_role="last"),
    ),
    Claim(
        "At the subject's last token, MLPs have larger indirect effects than attention",
        "Meng et al. 2022, 2202.05262",
        "GPT-2 XL: 6.6 % against 1.6 %",
        "indirect effect of the strongest MLP minus the strongest attention layer, names split into several tokens",
        lambda tables: _tracing_difference(tables, "people-pieces", component="attention"),
    ),
    Claim(
        "ROME combines efficacy, paraphrase and neighbourhood accuracy",
        "Meng et al. 2022, 2202.05262",
        "GPT-2 XL, single edits: score 89.2",
        "score of single edits, by probability",
        lambda tables: (_mean_over_seeds(_edit_metric(tables, "rome", "score")), 0.892),
    ),
    Claim(
        "MEMIT combines efficacy, paraphrase and neighbourhood accuracy for many edits",
        "Meng et al. 2023, 2210.07229",
        "GPT-J, 10,000 edits: score 85.8",
        "score of the largest batch, by probability",
        lambda tables: (_mean_over_seeds(_edit_metric(tables, "memit", "score")), 0.858),
    ),
    Claim(
        "Nearly all edits by AlphaEdit succeed",
        "Fang et al. 2024, 2410.02355",
        "GPT-J, 2,000 edits in batches of 100: efficacy 99.75",
        "efficacy of the largest schedule, by probability",
        lambda tables: (_mean_over_seeds(_edit_metric(tables, "alphaedit", "efficacy")), 0.9975),
    ),
    Claim(
        "A new value may be more probable than the old one without being the most probable answer",
        "EasyEdit, issue 125",
        "MEMIT's paraphrase accuracy: 88.6 % by probability, 54.9 % by argmax",
        "MEMIT's paraphrase accuracy, by argmax minus by probability",
        lambda tables: _paired_difference(
            *(_edit_metric(tables, "memit", "paraphrase", criterion) for criterion in ("argmax", "probability"))
        ),
        claimed_above=False,
    ),
    Claim(
        "Fine-tuning on unrelated text undoes edits",
        "2511.05852",
        "GPT-J, MEMIT, LoRA: 15.6 % of edits flip",
        "flip rate under LoRA on unrelated text, MEMIT's edits minus facts never edited (our control)",
        lambda tables: _flip_difference(tables, "unrelated"),
    ),
    Claim(
        "Fine-tuning on text about the same relations undoes edits",
        "2511.05852",
        "GPT-J, MEMIT, LoRA: 15.6 % of edits flip",
        "flip rate under LoRA on related text, MEMIT's edits minus facts never edited (our control)",
        lambda tables: _flip_difference(tables, "related"),
    ),
    Claim(
        "Lexical overlap retrieves documents that state a fact better than gradients do",
        "Chang et al. 2024, 2410.17413",
        "BM25 is better at attribution than TrackStar",
        "mean reciprocal rank, BM25 with prompt and answer minus TrackStar",
        lambda tables: (ranker_difference(tables, "mrr", "bm25-answer", "trackstar"), 0.0),
    ),
    Claim(
        "Gradients predict the effect of removing documents better than hidden states do",
        "leaderboard of bergson 2.5.1",
        "linear datamodeling score: EK-FAC .454, activations .157",
        "linear datamodeling score, EK-FAC minus hidden states",
        lambda tables: (ranker_difference(tables, "lds", "ekfac", "representation"), 0.0),
    ),
    Claim(
        "Models trained only on their own text lose knowledge",
        "Shumailov et al. 2024; Gerstgrasser et al. 2024, 2404.01413",
        "test loss rises with every generation",
        "recall lost relative to real text by the last generation that replaced its data",
        lambda tables: (pooled_rows(_final_generation(tables, "replace", "recall_drop")).iloc[0], 0.0),
    ),
    Claim(
        "Adding synthetic text to real text loses less knowledge than replacing it",
        "Gerstgrasser et al. 2024, 2404.01413",
        "test loss rises when replacing, stays flat when accumulating",
        "recall of the last generation, accumulating minus replacing",
        lambda tables: _paired_difference(
            _final_generation(tables, "accumulate"), _final_generation(tables, "replace")
        ),
    ),
    Claim(
        "Accumulating loses less than one fact in twenty",
        "Gerstgrasser et al. 2024, 2404.01413",
        "test loss stays flat",
        "recall lost relative to real text by the last generation that accumulated its data",
        lambda tables: (pooled_rows(_final_generation(tables, "accumulate", "recall_drop")).iloc[0], 0.05),
        claimed_above=False,
    ),
    Claim(
        "Rare facts are lost first",
        "Shumailov et al. 2024",
        "tails of the distribution vanish first",
        "recall lost relative to the control by the last generation that replaced its data, rare minus frequent facts",
        lambda tables: _paired_difference(
            *(_final_generation(tables, "replace", "recall_drop", group) for group in ("tail", "head"))
        ),
    ),
]
