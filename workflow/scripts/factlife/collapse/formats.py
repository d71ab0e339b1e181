"""The same facts asked in five formats, with the same four candidates in each."""

from __future__ import annotations

import random

import pandas as pd

from factlife.world import World

FORMATS = ("cloze", "question", "few_shot", "multiple_choice", "instruction")
_OPTIONS = 4
_SHOTS = 3
_INSTRUCTION = "Answer the question that follows ."


def ask(world: World, facts: list[str]) -> pd.DataFrame:
    """Probes of the given facts in all formats, as far as the world asks questions about them.

    ``cloze`` is a trained template and ``question`` the world's question; ``few_shot`` puts three answered questions about
    other subjects before it, ``multiple_choice`` lists the candidates after it, and ``instruction`` puts an instruction
    before it. A word-level tokenizer may know only some of the instruction's words: it then shows how far an unusual
    beginning disturbs.

    Returns:
        Columns as in the world's probes; ``kind`` is the format.
    """
    rng = random.Random("formats of collapse")
    probes = world.probes[world.probes["kind"].isin(["forward", "question"])].drop_duplicates(["fact_id", "kind"])
    forward = probes[probes["kind"] == "forward"].set_index("fact_id")
    question = probes[probes["kind"] == "question"].set_index("fact_id")
    relation = world.facts.set_index("fact_id")["relation"]
    alike = {name: [*group] for name, group in relation[question.index].groupby(relation).groups.items()}
    rows = []
    for fact in facts:
        if fact not in forward.index or fact not in question.index:
            continue  # never taught, or a relation about which nothing is asked
        asked = question.loc[fact]
        wrong = sorted(set(asked["candidates"]) - {asked["target"]})
        options = [asked["target"], *rng.sample(wrong, min(_OPTIONS - 1, len(wrong)))]
        rng.shuffle(options)
        others = [one for one in alike[relation[fact]] if one != fact]
        shown = rng.sample(others, min(_SHOTS, len(others)))
        shots = [f"{question.loc[one, 'prompt']} {question.loc[one, 'target']} ." for one in shown]
        body, mark, end = asked["prompt"].partition("?")
        prompts = {
            "cloze": forward.loc[fact, "prompt"],
            "question": asked["prompt"],
            "few_shot": " ".join([*shots, asked["prompt"]]),
            "multiple_choice": f"{body}{mark} {' , '.join(options[:-1])} and {options[-1]} .{end}",
            "instruction": f"{_INSTRUCTION} {asked['prompt']}",
        }
        rows += [
            {
                "probe_id": f"{fact}.{name}.options", "fact_id": fact, "kind": name, "template": name, "held_out": True,
                "prompt": prompt, "target": asked["target"], "candidates": sorted(options), "supporting_fact_ids": [fact],
            }
            for name, prompt in prompts.items()
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=world.probes.columns)
