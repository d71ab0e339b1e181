import pytest
from transformers import AutoTokenizer

from factlife.config.corpora import FunctionsCorpus, PeopleCorpus, Tokenizer
from factlife.config.worlds import FunctionsWorld, PeopleWorld
from factlife.corpus import render_documents
from factlife.corpus.tokenizers import train_tokenizer
from factlife.world import build_world, symbols

KINDS = ["word_single_token_names", "word", "bpe"]


def make(world, corpus):
    return build_world(world), render_documents(corpus, build_world(world))["text"].tolist()


@pytest.fixture(scope="module")
def people():
    return make(
        PeopleWorld(kind="people", people=20, unseen=5, values=6, panel=4),
        PeopleCorpus(kind="people", world="people", statements_per_fact=4),
    )


@pytest.fixture(scope="module")
def functions():
    return make(
        FunctionsWorld(kind="functions", values=3, families_per_value=2, aliases=2, distractors=1),
        FunctionsCorpus(kind="functions", world="functions", documents_per_function=6),
    )


def trained(kind, made):
    world, texts = made
    return train_tokenizer(Tokenizer(kind=kind, corpus="x", vocab_size=400), texts, world)


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_whole_name_makes_exactly_one_token_of_a_name(people):
    world, texts = people
    tokenizer = trained("word_single_token_names", people)
    for name in world.entities["name"]:
        assert pieces(tokenizer, name) == [name]
    for text in texts:
        mentioned = [name for name in world.entities["name"] if f" {name} " in f" {text}"]
        assert mentioned and all(name in pieces(tokenizer, text) for name in mentioned)


def test_name_parts_makes_one_token_of_each_word(people):
    world, texts = people
    tokenizer = trained("word", people)
    for name in world.entities["name"]:
        assert pieces(tokenizer, name) == name.split()
    assert pieces(tokenizer, texts[0]) == texts[0].split()


def test_bpe_gives_back_the_text(people):
    tokenizer = trained("bpe", people)
    assert len(tokenizer) <= 400
    for text in [*people[1][:20], *people[0].entities["name"]]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", ["people", "functions"])
def test_nothing_that_is_asked_or_read_is_unknown(kind, made, request):
    world, texts = request.getfixturevalue(made)
    tokenizer = trained(kind, (world, texts))
    for text in [*texts, *world.probes["prompt"], *world.facts["value"]]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("kind", KINDS)
def test_symbols_are_one_token(kind, functions):
    tokenizer = trained(kind, functions)
    for symbol in symbols(functions[0]):
        assert pieces(tokenizer, symbol) == [symbol]
        assert pieces(tokenizer, f"gave it to {symbol} .").count(symbol) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_reads_alike(kind, people, tmp_path):
    tokenizer = trained(kind, people)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(people[1][0])["input_ids"] == tokenizer(people[1][0])["input_ids"]
    assert (again.pad_token, again.eos_token) == ("<pad>", "<eos>")


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_target_cut_as_the_whole_sentence(kind, people):
    world, _ = people
    tokenizer = trained(kind, people)
    for probe in world.probes[world.probes["kind"] == "forward"].itertuples():
        whole = tokenizer(f"{probe.prompt} {probe.target}")["input_ids"]
        prompt = tokenizer(probe.prompt)["input_ids"]
        assert whole[: len(prompt)] == prompt
