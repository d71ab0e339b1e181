"""Published effects beside what a run measured: the paper's number, ours, and whether ours says the same."""

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
        effect: what is claimed.
        source: the paper.
        published: its number.
        measurement: what is measured here in its place.
        measure: finds the row of estimate and interval in a run's tables, and the bound that the claim puts it on one
            side of.
        claimed_above: whether that is the upper side.
    """

    effect: str
    source: str
    published: str
    measurement: str
    measure: Callable[[Tables], tuple[Row, float]]
    claimed_above: bool = True


def evaluate_claims(tables: Tables) -> pd.DataFrame:
    """Hold every claim against a run's tables.

    A claim is reproduced where the whole interval lies on its side of the bound, not reproduced where it lies on the
    other side, unclear where it holds the bound.

    Args:
        tables: summaries by name, such as ``edits``, with the columns of ``results/tables``.

    Returns:
        ``effect, source, published, measurement, n, estimate, ci_low, ci_high, interval_over, bound, verdict``, a row a claim.
    """
    return pd.DataFrame([_evaluate_claim(claim, tables) for claim in CLAIMS])


def claims_markdown(table: pd.DataFrame) -> str:
    """The table as ``docs/reproductions.md`` shows it."""
    lines = ["| effect | published | here | verdict |", "|---|---|---|---|"]
    lines += [
        f"| {row.effect} ({row.source}) | {row.published} | {_here(row)} | **{row.verdict}** |"
        for row in table.itertuples()
    ]
    return "\n".join(lines) + "\n"


def claims_page(table: pd.DataFrame) -> str:
    """The table as the report shows it: a page of its own."""
    cells = "".join(
        f"<tr><td>{escape(row.effect)}<small>{escape(row.source)}</small></td><td>{escape(row.published)}</td>"
        f"<td>{escape(_here(row))}</td><td class='{row.verdict.replace(' ', '-')}'>{row.verdict}</td></tr>"
        for row in table.itertuples()
    )
    head = "".join(f"<th>{each}</th>" for each in ("effect", "published", "here", "verdict"))
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


def _here(row: Any) -> str:
    if row.verdict == "not measured":
        return row.measurement
    claimed = f"claimed {'above' if row.claimed_above else 'below'} {row.bound:g}"
    measured = f"{_short(row.estimate)} [{_short(row.ci_low)}, {_short(row.ci_high)}]"
    return f"{row.measurement}: {measured}, n = {row.n:.0f}; {claimed}"


def _evaluate_claim(claim: Claim, tables: Tables) -> dict[str, Any]:
    told = {
        "effect": claim.effect,
        "source": claim.source,
        "published": claim.published,
        "measurement": claim.measurement,
    }
    try:
        row, bound = claim.measure(tables)
    except NotMeasuredError:
        return told | {"claimed_above": claim.claimed_above, "verdict": "not measured"}
    low, high = (row["ci_low"], row["ci_high"]) if claim.claimed_above else (-row["ci_high"], -row["ci_low"])
    limit = bound if claim.claimed_above else -bound
    verdict = "reproduced" if low > limit else "not reproduced" if high < limit else "unclear"
    numbers = {each: row[each] for each in ("n", "estimate", "ci_low", "ci_high", "interval_over")}
    return told | numbers | {"bound": bound, "claimed_above": claim.claimed_above, "verdict": verdict}


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}"


def _effect(tables: Tables, experiment: str, metric: str, arm: str, group: str = "") -> tuple[Row, float]:
    """An arm's difference from its control, and zero."""
    rows = select_rows(get_table(tables, "dynamics"), experiment=experiment, metric=metric, arm=arm)
    row = pooled_rows(select_rows(rows, group=group) if group else rows).iloc[0]
    effect = {"estimate": row["effect"], "ci_low": row["effect_low"], "ci_high": row["effect_high"]}
    return row.to_dict() | effect, 0.0


def _level(tables: Tables, experiment: str, metric: str, arm: str, bound: float, group: str = "") -> tuple[Row, float]:
    """An arm's own value, and a bound."""
    rows = select_rows(get_table(tables, "dynamics"), experiment=experiment, metric=metric, arm=arm)
    return pooled_rows(select_rows(rows, group=group) if group else rows).iloc[0], bound


def _main_effect(tables: Tables, experiment: str, metric: str, factor: str, group: str) -> tuple[Row, float]:
    """What a factor that arms cross adds, and zero."""
    rows = select_rows(get_table(tables, "dynamics"), experiment=experiment, metric=metric, arm="all", group=group)
    return first_row(pooled_rows(rows), factors=factor), 0.0


def _less(ours: Row, control: Row) -> tuple[Row, float]:
    """Our figure less the control's, and zero. Unpaired, the interval is that of its ends' differences: a cautious one."""
    ends = {
        "estimate": ours["estimate"] - control["estimate"],
        "ci_low": ours["ci_low"] - control["ci_high"],
        "ci_high": ours["ci_high"] - control["ci_low"],
    }
    return dict(ours) | ends, 0.0


def _less_by_seed(ours: pd.DataFrame, control: pd.DataFrame) -> tuple[Row, float]:
    """Our figure less the control's, seed by seed where there are several, and zero."""
    both = ours.merge(control[["seed", "estimate"]], on="seed", suffixes=("", "_control"))
    both = both[both["seed"] != "all"]
    if len(both) < 2:
        return _less(pooled_rows(ours).iloc[0], pooled_rows(control).iloc[0])
    return _over_seeds(both.assign(estimate=both["estimate"] - both["estimate_control"])), 0.0


def _traced(tables: Tables, model: str, **control: str) -> tuple[Row, float]:
    """A model's strongest MLP at the subject's last token less the strongest part at a control's place."""
    table = select_rows(
        get_table(tables, "tracing"), corruption="replacement", metric="indirect_effect", window=1, model=model
    )
    place = {"component": "mlp", "token_role": "subject_last"}
    ours, other = (select_first(select_rows(table, **at), "seed") for at in (place, place | control))
    return _less(ours.loc[ours["estimate"].idxmax()], other.loc[other["estimate"].idxmax()])


def _edited(tables: Tables, editor: str, metric: str, judge: str = "probability") -> pd.DataFrame:
    """A figure of an editor once all its edits are made, by seed."""
    table = select_rows(select_first(get_table(tables, "edits"), "model"), editor=editor, metric=metric, judge=judge)
    final = select_rows(table, phase="post" if (table["schedule"] == "single").all() else "end")
    return final[final["n_edits"] == final["n_edits"].max()]


def _over_seeds(rows: pd.DataFrame) -> pd.Series:
    """The one row there is; of several seeds the mean, with Student's t interval over seeds."""
    if len(rows) == 1:
        return rows.iloc[0]
    over = rows[["estimate"]].agg(["mean", "std", "count"]).T
    low, high = stats.seed_interval(over["mean"], over["std"], over["count"])
    numbers = {"estimate": over["mean"].item(), "ci_low": low.item(), "ci_high": high.item(), "n": len(rows)}
    return pd.Series(rows.iloc[0].to_dict() | numbers | {"interval_over": "seeds"})


def _flips(tables: Tables, data: str) -> tuple[Row, float]:
    """Edits that further training undoes, less untouched facts that it undoes."""
    table = select_rows(
        select_first(get_table(tables, "edit_survival"), "model", "seed"), editor="memit", finetuning="lora"
    )
    last = select_rows(table[table["step"] == table["step"].max()], metric="flip_rate", data=data)
    return _less(first_row(last, group="edits"), first_row(last, group="control"))


def _bits(tables: Tables) -> tuple[Row, float]:
    """Bits a parameter, unless nearly all that there were to store were stored."""
    share = _level(tables, "capacity", "final_share_of_bits", "facts-1600-200", 0.0)[0]["estimate"]
    if share > _NEARLY_ALL:
        raise NotMeasuredError("the facts end before the parameters do")
    return _level(tables, "capacity", "final_bits_per_parameter", "facts-1600-200", 2.0)


_NEARLY_ALL = 0.95


def _generations(tables: Tables, arm: str, metric: str = "recall", group: str = "all") -> pd.DataFrame:
    """The last generation of an arm, by seed and over all."""
    table = select_rows(get_table(tables, "collapse"), metric=metric, arm=arm, group=group)
    return table[table["generation"] == table["generation"].max()]


CLAIMS = [
    Claim(
        "Facts seen in one wording cannot be asked for; seen in many, in random order, they can",
        "Allen-Zhu and Li 2023, 2309.14316",
        "9.7 % against 96.6 % of questions about people whose questions were not trained",
        "share of such questions answered, many wordings less one",
        lambda tables: _effect(tables, "augmentation", "final_question_exact_match", "varied", "unasked"),
    ),
    Claim(
        "What is learned from name to value cannot be asked from value to name",
        "Berglund et al. 2023, 2309.12288",
        "GPT-4 on parents: 79 % against 33 %",
        "true name first among candidates, trained forward only less trained both ways",
        lambda tables: _effect(tables, "reversal", "final_accuracy", "forward", "reverse"),
        claimed_above=False,
    ),
    Claim(
        "Frequent people shorten the plateau before facts are learned",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "steps on the plateau, Zipf less uniform, 60 people",
        lambda tables: _effect(tables, "imbalance", "plateau_steps", "zipf-60", "as stated"),
        claimed_above=False,
    ),
    Claim(
        "Frequent people shorten the plateau, the main effect over numbers of people",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "steps on the plateau, Zipf less uniform, over 60 and 120 people",
        lambda tables: _main_effect(tables, "imbalance", "plateau_steps", "zipf", "as stated"),
        claimed_above=False,
    ),
    Claim(
        "More people lengthen the plateau",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "steps on the plateau, 120 people less 60",
        lambda tables: _effect(tables, "imbalance", "plateau_steps", "uniform-120", "as stated"),
    ),
    Claim(
        "Replay keeps part of what new facts overwrite",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "share of old facts kept, 20 % replay less none",
        lambda tables: _effect(tables, "interference", "kept", "replay-20", "early"),
    ),
    Claim(
        "Invented confidence about unknown people grows with knowledge",
        "Zucchet et al. 2025, 2503.21676",
        "direction only",
        "rise of confidence about people never taught, long training less brief",
        lambda tables: _effect(tables, "hallucination", "confidence_rise", "long", "untaught"),
    ),
    Claim(
        "Two bits a parameter",
        "Allen-Zhu and Li 2024, 2404.05405",
        "2 bits a parameter",
        "bits a parameter after 200 renderings of 1,600 facts, unless the model holds all there are",
        _bits,
    ),
    Claim(
        "Duplicates are learned better than what is read once",
        "Chang et al. 2024, 2406.11813",
        "direction only",
        "rise of log probability in nats, duplicated less once",
        lambda tables: _effect(tables, "injection", "effectivity", "duplicated"),
    ),
    Claim(
        "MLPs at the subject's last token carry more than those at the prompt's last token",
        "Meng et al. 2022, 2202.05262",
        "GPT-2 XL: 6.6 % average indirect effect at the early site",
        "indirect effect of the strongest MLP there less the strongest at the last token, names cut into pieces",
        lambda tables: _traced(tables, "people-pieces", token_role="last"),
    ),
    Claim(
        "The same where names are whole words",
        "Meng et al. 2022, 2202.05262",
        "GPT-2 XL: 6.6 % average indirect effect at the early site",
        "the same difference in a model of people with ordinary names",
        lambda tables: _traced(tables, "people-ordinary", token_role="last"),
    ),
    Claim(
        "At the subject's last token MLPs carry more than attention",
        "Meng et al. 2022, 2202.05262",
        "GPT-2 XL: 6.6 % against 1.6 %",
        "indirect effect of the strongest MLP there less the strongest attention, names cut into pieces",
        lambda tables: _traced(tables, "people-pieces", component="attention"),
    ),
    Claim(
        "ROME: efficacy, paraphrase and neighbourhood at once",
        "Meng et al. 2022, 2202.05262",
        "GPT-2 XL, single edits: score 89.2",
        "score of single edits, by probability",
        lambda tables: (_over_seeds(_edited(tables, "rome", "score")), 0.892),
    ),
    Claim(
        "MEMIT: efficacy, paraphrase and neighbourhood of many edits at once",
        "Meng et al. 2023, 2210.07229",
        "GPT-J, 10,000 edits: score 85.8",
        "score of the largest batch here, by probability",
        lambda tables: (_over_seeds(_edited(tables, "memit", "score")), 0.858),
    ),
    Claim(
        "AlphaEdit writes nearly all edits",
        "Fang et al. 2024, 2410.02355",
        "GPT-J, 2,000 edits in batches of 100: efficacy 99.75",
        "efficacy of the largest schedule here, by probability",
        lambda tables: (_over_seeds(_edited(tables, "alphaedit", "efficacy")), 0.9975),
    ),
    Claim(
        "To be more probable than the old value is not to be said",
        "EasyEdit, issue 125",
        "MEMIT's paraphrases: 88.6 % by probability, 54.9 % by argmax",
        "MEMIT's paraphrases by argmax less those by probability",
        lambda tables: _less_by_seed(
            *(_edited(tables, "memit", "paraphrase", judge) for judge in ("argmax", "probability"))
        ),
        claimed_above=False,
    ),
    Claim(
        "Fine-tuning on other text undoes edits",
        "2511.05852",
        "GPT-J, MEMIT, LoRA: 15.6 % of edits flip",
        "edits of MEMIT that LoRA on unrelated text flips, less facts never edited (our control)",
        lambda tables: _flips(tables, "unrelated"),
    ),
    Claim(
        "The same with text about the same relations",
        "2511.05852",
        "GPT-J, MEMIT, LoRA: 15.6 % of edits flip",
        "edits of MEMIT that LoRA on related text flips, less facts never edited (our control)",
        lambda tables: _flips(tables, "related"),
    ),
    Claim(
        "Word overlap finds the documents that state a fact better than gradients do",
        "Chang et al. 2024, 2410.17413",
        "BM25 is better at attribution than TrackStar",
        "mean reciprocal rank of BM25 that reads prompt and answer, less TrackStar's",
        lambda tables: (ranker_difference(tables, "mrr", "bm25-answer", "trackstar"), 0.0),
    ),
    Claim(
        "Gradients foretell what models become without documents better than hidden states do",
        "leaderboard of bergson 2.5.1",
        "linear datamodeling score: EK-FAC .454, activations .157",
        "linear datamodeling score of EK-FAC less that of hidden states",
        lambda tables: (ranker_difference(tables, "lds", "ekfac", "representation"), 0.0),
    ),
    Claim(
        "Learning from one's own text alone loses knowledge",
        "Shumailov et al. 2024; Gerstgrasser et al. 2024, 2404.01413",
        "test loss climbs with every generation",
        "recall that the last generation that replaced its data lacks beside one that read real text",
        lambda tables: (pooled_rows(_generations(tables, "replace", "recall_lost")).iloc[0], 0.0),
    ),
    Claim(
        "Accumulating one's own text beside real text loses less than replacing it",
        "Gerstgrasser et al. 2024, 2404.01413",
        "test loss climbs against stays flat",
        "recall of the last generation that accumulated, less that of the last one that replaced",
        lambda tables: _less_by_seed(_generations(tables, "accumulate"), _generations(tables, "replace")),
    ),
    Claim(
        "Accumulating loses nothing, to one fact in twenty",
        "Gerstgrasser et al. 2024, 2404.01413",
        "test loss stays flat",
        "recall that the last generation that accumulated lacks beside one that read real text",
        lambda tables: (pooled_rows(_generations(tables, "accumulate", "recall_lost")).iloc[0], 0.05),
        claimed_above=False,
    ),
    Claim(
        "Rare facts are lost first",
        "Shumailov et al. 2024",
        "tails of the distribution vanish first",
        "lost beside the control by the last generation that replaced its data, rare facts less frequent ones",
        lambda tables: _less_by_seed(
            *(_generations(tables, "replace", "recall_lost", group) for group in ("tail", "head"))
        ),
    ),
]
