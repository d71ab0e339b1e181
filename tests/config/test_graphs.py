"""Errors of attribution graphs and dictionaries that name the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from factlife.config import ConfigError, read_config

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())
TWO = ["batchtopk-transcoder", "transcoder"]


def graphs(**settings):
    return {"models": {"people-pieces": {"graphs": settings}}}


def dictionaries(*names, **graphs):
    return {"models": {"people-pieces": {"saes": {"dictionaries": list(names)}, "graphs": graphs}}}


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (
            graphs(transcoder="batchtopk-residual"),
            ["models.people-pieces.graphs.transcoder is `batchtopk-residual`, a sparse autoencoder", "graphs need a transcoder"],
        ),
        (
            dictionaries("batchtopk-residual"),
            ["models.people-pieces.graphs.transcoder is `batchtopk-transcoder`, which is not in models.people-pieces.saes.dictionaries"],
        ),
        (graphs(transcoder="batchtopk-transcoders"), ["did you mean `batchtopk-transcoder`?"]),
        (
            dictionaries(*TWO, transcoder=None),
            ["models.people-pieces.graphs.transcoder is missing: name one of models.people-pieces.saes.dictionaries"],
        ),
        (
            {"models": {"functions": {"stages": ["recall", "graphs"]}}},
            ["models.functions.stages has `graphs` without `saes`, which trains the transcoders that graphs need; add it"],
        ),
        (dictionaries("batchtopk-tanscoder"), ["saes.dictionaries is `batchtopk-tanscoder`", "did you mean `batchtopk-transcoder`?"]),
        (dictionaries(*TWO, *TWO), ["models.people-pieces.saes.dictionaries has duplicates"]),
        ({"dictionaries": {"batchtopk-residual": {"corpus": "peopel"}}}, ["dictionaries.batchtopk-residual.corpus is `peopel`"]),
        ({"dictionaries": {"batchtopk-residual": {"models": ["m"]}}}, ["models has moved to models.*.saes.dictionaries"]),
        ({"dictionaries": {"mine": {"site": "transcoder"}}}, ["dictionaries.mine.kind is missing: must be one of sae, transcoder"]),
        (graphs(pages=["p001.major", "p001.major"]), ["models.people-pieces.graphs.pages has duplicates"]),
        (graphs(node_threshold=0), ["models.people-pieces.graphs.node_threshold is 0"]),
        (graphs(prompts={"mine": {"prompt": "Paris is in"}}), ["models.people-pieces.graphs.prompts.mine.answer is missing"]),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(change, texts):
    with pytest.raises(ConfigError) as error:
        read_config(DEFAULT, change)
    for text in texts:
        assert text in str(error.value)


def test_the_only_transcoder_of_a_model_is_the_default():
    change = dictionaries("batchtopk-residual", "transcoder", transcoder=None)
    settings = read_config(DEFAULT, change)
    assert settings.models["people-pieces"].graphs.transcoder == "transcoder"
    assert settings.dictionaries["transcoder"].kind == settings.dictionaries["transcoder"].site == "transcoder"
