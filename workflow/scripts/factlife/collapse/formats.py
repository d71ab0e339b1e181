"""The same facts in five prompt formats, with the same four candidates in each."""

from __future__ import annotations

import random

import pandas as pd

from factlife.world import World

FORMATS = ("cloze", "question", "few_shot", "multiple_choice", "instruction")
_N_OPTIONS = 4
_N_SHOTS = 3
_INSTRUCTION = "Answer the question that follows ."


def format_probes(world: World, facts: list[str]) -> pd.DataFrame:
    """Probes of the given facts in all formats, for relations with a question.

    ``cloze`` is a training template and ``question`` the world's question. ``few_shot`` puts three answered questions about
    other subjects before the question, ``multiple_choice`` lists the candidates after it, and ``instruction`` puts an
    instruction before it. A word-level tokenizer may not know all words of the instruction; the format then measures how
    much an unusual beginning disturbs the model.

    Returns:
        Columns as in the world's probes; ``kind`` is the format.
    """
    # The seed string keeps an earlier wording, so that the draws stay the same.
    rng = random.Random("formats of collapse")
    probes = world.probes[world.probes["kind"].isin(["forward", "question"])].drop_duplicates(["fact_id", "kind"])
    forward = probes[probes["kind"] == "forward"].set_index("fact_id")
    questions = probes[probes["kind"] == "question"].set_index("fact_id")
    relation = world.facts.set_index("fact_id")["relation"]
    facts_by_relation = {name: [*group] for name, group in relation[questions.index].groupby(relation).groups.items()}
    rows = []
    for fact in facts:
        if fact not in forward.index or fact not in questions.index:
            continue  # The subject is unseen, or the relation has no question.
        question = questions.loc[fact]
        wrong_values = sorted(set(question["candidates"]) - {question["target"]})
        options = [question["target"], *rng.sample(wrong_values, min(_N_OPTIONS - 1, len(wrong_values)))]
        rng.shuffle(options)
        other_facts = [candidate for candidate in facts_by_relation[relation[fact]] if candidate != fact]
        example_facts = rng.sample(other_facts, min(_N_SHOTS, len(other_facts)))
        examples = [
            f"{questions.loc[example, 'prompt']} {questions.loc[example, 'target']} ." for example in example_facts
        ]
        body, mark, end = question["prompt"].partition("?")
        prompts = {
            "cloze": forward.loc[fact, "prompt"],
            "question": question["prompt"],
            "few_shot": " ".join([*examples, question["prompt"]]),
            "multiple_choice": f"{body}{mark} {' , '.join(options[:-1])} and {options[-1]} .{end}",
            "instruction": f"{_INSTRUCTION} {question['prompt']}",
        }
        rows += [
            {
                "probe_id": f"{fact}.{name}.options", "fact_id": fact, "kind": name, "template": name, "held_out_template": True,
                "prompt": prompt, "target": question["target"], "candidates": sorted(options), "supporting_fact_ids": [fact],
            }
            for name, prompt in prompts.items()
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=world.probes.columns)
