"""Tokenizers: word-level, with or without single-token names, and byte-level BPE."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from factlife.config.corpora import Tokenizer as Settings
from factlife.world.tables import World

_SYMBOL = re.compile(r"<[A-Z]\d+>")
SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}


def train_tokenizer(settings: Settings, texts: Iterable[str], world: World | None = None) -> PreTrainedTokenizerFast:
    """Train a tokenizer whose encodings begin with ``<bos>``.

    Args:
        settings: kind and vocabulary size.
        texts: training documents.
        world: its probes, values and names are training texts too. Symbols such as ``<B01>`` are single tokens in every
            kind, names only in kind ``word_single_token_names``.
    """
    texts, names, symbols = list(texts), [], []
    if world is not None:
        names = world.entities["name"].tolist()
        texts += [*world.probes["prompt"], *world.facts["value"].unique(), *names]
        symbols = sorted({symbol for text in texts for symbol in _SYMBOL.findall(text)})
    special_tokens, single_tokens = (
        list(SPECIAL.values()),
        [*symbols, *(names if settings.kind == "word_single_token_names" else ())],
    )
    if settings.kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=settings.vocab_size,
            special_tokens=special_tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
    else:
        pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
        words = {word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(text)}
        vocabulary = dict.fromkeys([*special_tokens, *single_tokens, *sorted(words)])
        tokenizer = Tokenizer(
            models.WordLevel({token: token_id for token_id, token in enumerate(vocabulary)}, unk_token="<unk>")
        )
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_tokens([AddedToken(token, normalized=False, lstrip=True) for token in single_tokens])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", bos)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **SPECIAL)
