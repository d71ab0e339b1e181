"""One generation: learn from what came before, write, and be measured. Beside the room's tables, read without torch."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from factlife import models
from factlife.collapse import diversity, formats, gibberish, mixing
from factlife.collapse import tests as multiple_choice
from factlife.collapse.facts import Reader
from factlife.collapse.sample import sample
from factlife.config.collapse import Arm, MultipleChoice, Sampler
from factlife.config.corpora import PeopleCorpus
from factlife.corpus import people
from factlife.recall.perplexity import corpus_perplexity, text_losses
from factlife.recall.score import score_probes
from factlife.world import World
from factlife.world.tables import read_table, write_table

# Kinds of probes that are asked of every generation.
ASKED = ("forward", "paraphrase", "question", "unseen")


def run(
    settings: Arm,
    generation: int,
    seed: int,
    *,
    base: str | Path,
    earlier: Sequence[str | Path],
    documents: pd.DataFrame,
    corpus: Any,
    world: World,
    output: str | Path,
    resume: str | Path,
    batch_tokens: int,
    tests: Mapping[str, tuple[MultipleChoice, pd.DataFrame]] | None = None,
    detector: str | Path | None = None,
    judge: str | Path | None = None,
    device: str = "cpu",
) -> None:
    """Make a generation and write all that is known of it into its folder.

    What a killed job needs in order to go on is kept in ``resume``, which is removed at success.

    Args:
        settings: of the arm.
        generation: its number; generation 0 learns nothing and is the model as it came.
        seed: of everything drawn.
        base: folder of the model of generation 0.
        earlier: folders of the generations before, in their order; with mode `replace` the last one is enough.
        documents: the real corpus.
        corpus: the section of the config that it was made from.
        world: what is true, and the probes.
        output: the folder; ``docs/collapse.md`` says what it holds.
        resume: folder for what a killed job needs.
        batch_tokens: tokens in a batch of probes.
        tests: multiple-choice tests by name, with their questions.
        detector: folder of a public classifier of gibberish; without one, generation 0 trains it and others take it over.
        judge: folder of the model that judges the fluency of all generations; without one, that of generation 0.
        device: where models run.

    Raises:
        CollapseError: there is nothing to learn from.
    """
    output, resume = Path(output), Path(resume)
    reader = Reader(world) if isinstance(corpus, PeopleCorpus) else None
    first = models.load_model(base, device)
    judges = models.load_model(judge, device) if judge else first
    real = mixing.real_texts(documents, first[1], settings.block_tokens)
    folder = Path(base)
    if generation:
        written = [read_table(Path(path) / "samples.parquet") for path in earlier]
        learnt = mixing.corpus(settings, generation, real, written, seed)
        folder = resume / "trained"
        start = Path(base if settings.start == "base" else Path(earlier[-1]) / "model")
        _train(settings, learnt, start, folder, resume / "training", 1000 * seed + generation, device)
    model, tokenizer = models.load_model(folder, device) if generation else first
    fresh = real.sample(settings.samples, replace=len(real) < settings.samples, random_state=1000 * seed + generation)
    samples = _kept(resume / "samples.parquet", lambda: write(settings, model, tokenizer, fresh, seed, generation))
    if not samples["text"].str.strip().any():
        logging.warning("every text that generation %d wrote is empty", generation)
    texts = {"synthetic": samples} | ({} if generation else {"real": fresh[["text"]]})

    output.mkdir(parents=True, exist_ok=True)
    if generation:
        write_table(learnt, output / "corpus.parquet")
    if detector is None:
        own = (
            gibberish.read(Path(earlier[-1]) / "gibberish.safetensors") if generation else gibberish.train(real["text"])
        )
        own.save(output / "gibberish.safetensors")
        accuracy = {"accuracy": own.accuracy, "tested": own.tested}
        (output / "gibberish.json").write_text(json.dumps(accuracy) + "\n")
    levels = own.score if detector is None else gibberish.public(detector, device)
    stated = {source: reader.read(table["text"].tolist()) for source, table in texts.items()} if reader else {}
    for source, table in texts.items():
        measured = _measured(table.reset_index(drop=True), judges, levels, stated.get(source))
        write_table(measured, output / ("samples.parquet" if source == "synthetic" else "real.parquet"))
    if stated:
        statements = [table.assign(source=source) for source, (table, _) in stated.items()]
        write_table(pd.concat(statements, ignore_index=True), output / "statements.parquet")
    diverse = {source: diversity.of_texts(table["text"].tolist()) for source, table in texts.items()}
    pd.DataFrame(diverse).rename_axis("metric").to_csv(output / "diversity.csv")
    unseen = held_out(documents, corpus, world, settings.held_out)
    write_table(text_losses(model, tokenizer, unseen), output / "held_out.parquet")
    facts = _facts(world, settings.asked)
    write_table(_asked(model, tokenizer, world, facts["fact_id"], batch_tokens), output / "recall.parquet")
    asked = formats.ask(world, facts["fact_id"][facts["panel"]].tolist())
    scored = score_probes(model, tokenizer, asked, batch_tokens=batch_tokens)[["representable", "candidate_correct"]]
    write_table(asked[["fact_id", "kind"]].join(scored), output / "formats.parquet")
    write_table(multiple_choice.take(model, tokenizer, tests or {}), output / "tests.parquet")
    models.link_files(folder, output / "model")
    shutil.rmtree(resume)


def write(settings: Arm, model: Any, tokenizer: Any, real: pd.DataFrame, seed: int, generation: int) -> pd.DataFrame:
    """What a model writes after the beginnings of real texts: ``prompt, text, tokens, ended``, one row per text."""
    how = settings.sampler
    prompts = [_prompt(text, tokenizer, how) for text in real["text"]]
    new = sample(model, tokenizer, prompts, how, seed=1000 * seed + generation)
    texts = [prompt * how.keep_prompt + ids for prompt, ids in zip(prompts, new, strict=True)]
    return pd.DataFrame(
        {
            "prompt": tokenizer.batch_decode(prompts, skip_special_tokens=True),
            "text": tokenizer.batch_decode(texts, skip_special_tokens=True),
            "tokens": [len(ids) for ids in new],
            "ended": [ids[-1] == tokenizer.eos_token_id for ids in new],
        }
    )


def headline(folder: str | Path) -> str:
    """The key figures of a finished generation in one line."""
    recall = read_table(Path(folder) / "recall.parquet")
    texts = read_table(Path(folder) / "samples.parquet")
    known = recall.loc[recall["kind"] == "forward", "exact_match"].astype(float).mean()
    surprise = corpus_perplexity(read_table(Path(folder) / "held_out.parquet"))
    empty = (texts["words"] == 0).mean()
    return f"recall {known:.3f}, perplexity of real text {surprise:.2f}, empty texts {empty:.1%}"


def held_out(documents: pd.DataFrame, corpus: Any, world: World, count: int) -> list[str]:
    """Real texts that no model was trained on: those that the corpus keeps, or new renderings of the same facts.

    Raises:
        CollapseError: the corpus keeps none and is not rendered from people.
    """
    kept = documents["text"][documents["split"] == "held_out"]
    if kept.empty and isinstance(corpus, PeopleCorpus):
        other = corpus.model_copy(update={"statements_per_fact": 2, "qa_per_fact": 0, "seed": corpus.seed + 1})
        kept = people.render(world, other)["text"]
        kept = kept[~kept.isin(documents["text"])]
    if kept.empty:
        raise mixing.CollapseError("the real corpus keeps no documents for evaluation; raise its `held_out`")
    return kept.head(count).tolist()


def _prompt(text: str, tokenizer: Any, how: Sampler) -> list[int]:
    """The first tokens of a text, after the token that begins every text or inside the tokenizer's chat template."""
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = tokenizer(text)["input_ids"]
    ids = ids[ids[:1] == [tokenizer.bos_token_id] :][: how.prompt_tokens]
    if how.chat is None:
        # A model without such a token goes on from the text alone, if there is any.
        return ids if ids and tokenizer.bos_token_id is None else [first, *ids]
    # In the user's turn: not every template takes a system message.
    said = [{"role": "user", "content": f"{how.chat}\n\n{tokenizer.decode(ids)}"}]
    return tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)


def _train(
    settings: Arm, learnt: pd.DataFrame, start: Path, folder: Path, resume: Path, seed: int, device: str
) -> None:
    # Training removes its states last: with a model and without them, it had ended before the job was killed.
    if folder.exists() and not resume.exists():
        return
    # With both, it was killed while it wrote the model.
    shutil.rmtree(folder, ignore_errors=True)
    model, tokenizer = models.load_model(start, device)
    read = learnt.iloc[mixing.readings(len(learnt), settings, seed)]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = tokenizer(read["text"].tolist())["input_ids"]
    limit = settings.training.max_length
    sequences = pd.DataFrame(
        {
            "doc_ids": [[str(number)] for number in read.index],
            "fact_ids": [[] for _ in ids],
            "input_ids": [(row + end * ended)[:limit] for row, ended in zip(ids, read["ended"], strict=True)],
        }
    )
    once = settings.training.model_copy(update={"epochs": 1})
    models.train_model(model, tokenizer, sequences, once, seed=seed, output=folder, resume=resume)


def _kept(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table made once, though the job be killed and begin again."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        write_table(make(), part)
        part.rename(path)
    return read_table(path)


def _measured(
    texts: pd.DataFrame,
    judge: tuple[Any, Any],
    levels: Callable[[Sequence[str]], np.ndarray],
    stated: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> pd.DataFrame:
    """Texts with what is measured of each; ``sentences, parsed, false_statements`` only where facts can be read."""
    found = text_losses(*judge, texts["text"].tolist())
    more = {
        "words": texts["text"].str.split().str.len(),
        "entropy": texts["text"].map(diversity.entropy),
        "judge_tokens": found["tokens"],
        "judge_nats": found["nats"],
        "gibberish": levels(texts["text"].tolist()),
    }
    if stated is not None:
        statements, counts = stated
        wrong = statements["text"][statements["verdict"] == "false"].value_counts()
        more |= {"sentences": counts["sentences"], "parsed": counts["parsed"]}
        more["false_statements"] = wrong.reindex(range(len(texts)), fill_value=0)
    return texts.assign(**more)


def _facts(world: World, asked: int | None) -> pd.DataFrame:
    """The facts that are asked about, all if no number is given; the same ones in every generation of every arm."""
    if asked is None:
        return world.facts
    # The panel first, then others at random.
    mixed = world.facts.sample(frac=1, random_state=0).sort_values("panel", ascending=False, kind="stable")
    return world.facts[world.facts["fact_id"].isin(mixed["fact_id"][:asked])]


def _asked(model: Any, tokenizer: Any, world: World, facts: pd.Series, batch_tokens: int) -> pd.DataFrame:
    """One probe of each kind about each fact, as the engine scores it."""
    probes = world.probes[world.probes["kind"].isin(ASKED) & world.probes["fact_id"].isin(facts)]
    probes = probes.drop_duplicates(["fact_id", "kind"]).reset_index(drop=True)
    table = pd.concat([probes, score_probes(model, tokenizer, probes, batch_tokens=batch_tokens)], axis=1)
    table = table.join(world.facts.set_index("fact_id")[["relation", "exposures", "panel"]], on="fact_id")
    return table.drop(columns=["prompt", "candidates", "supporting_fact_ids"])
