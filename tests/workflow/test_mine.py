"""A user's own model: the template of config/mine.yaml, on a tiny random Llama, and a file of requests without a world."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from factlife.config import ConfigError, read_config
from factlife.config.worlds import CountriesWorld
from factlife.world import build_world

ROOT = Path(__file__).parents[2]
TEMPLATE = (ROOT / "config/mine.yaml").read_text()
SUBJECTS = ["Ada Finch", "Ben Stone", "Cleo Marsh", "Dan Reed", "Eve Hill", "Finn Lake"]
CITIES = ["Paris", "Oslo", "Rome"]


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A Llama of two layers with random weights, and a byte-level tokenizer that knows the words of the world of countries."""
    folder = tmp_path_factory.mktemp("llama")
    world = build_world(CountriesWorld(kind="countries"))
    texts = [*(" " + world.facts["value"]), *world.probes["prompt"], *(f"{name} lives in" for name in SUBJECTS)]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=2000, min_frequency=1, special_tokens=["<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=160, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checkout(check_out, tmp_path):
    return check_out(tmp_path)


def test_the_template_has_at_most_ten_lines():
    lines = [line for line in TEMPLATE.splitlines() if not line.lstrip().startswith("#")]

    assert len(lines) <= 10
    assert yaml.safe_load(TEMPLATE)["run"] == {"models": ["mine"]}


def test_the_template_as_it_is_plans_all_stages_of_one_model_and_nothing_else(checkout):
    planned = checkout.snakemake("all", "--dry-run", config="config/mine.yaml").passed().jobs()

    assert planned >= {
        "download_model mine",
        "evaluate_recall mine 0",
        "trace_model mine 0",
        "discover_circuits mine 0",
        "train_saes mine 0 transcoder",
        "build_attribution_graphs mine 0",
        "compute_key_covariance mine 0 prose",
        "edit_model mine 0 memit",
        "edit_model mine 0 rome",
        "build_ledger",
    }
    assert not [job for job in planned if "people" in job or "functions" in job]
    assert not {"summarise_dynamics", "summarise_influence", "summarise_collapse"} & planned


def test_the_template_recalls_and_edits_a_folder(checkout, llama):
    config = yaml.safe_load(TEMPLATE)
    config["models"]["mine"]["source"] = {"kind": "folder", "path": str(llama)}
    config["models"]["mine"]["stages"] = ["recall", "editing"]
    del config["models"]["mine"]["circuits"]
    # Only to be quick.
    config["run"]["resamples"] = 20
    config["worlds"] = {"countries": {"panel": 3, "relations": ["capital", "continent"]}}
    config["covariances"] = {"prose": {"corpus": "prose", "tokens_per_key_dim": 20}}
    config["models"]["mine"]["editing"] = {"editors": ["memit", "mine-rome"], "requests": {"count": 100}}
    config["editors"] = {"mine-rome": {"kind": "rome", "schedule": {"kind": "single", "n_edits": 2}}}
    targets = ["results/tables/recall.csv", "results/tables/edits.csv"]
    checkout.snakemake(*targets, "--cores", "2", config=checkout.write_config(config)).passed()

    recall, edits = (pd.read_csv(checkout.folder / target) for target in targets)
    assert set(recall["model"]) == set(edits["model"]) == {"mine"}
    assert set(edits["editor"]) == {"memit", "mine-rome"}
    efficacy = edits[(edits["editor"] == "memit") & (edits["metric"] == "efficacy")]
    assert efficacy["n_edits"].max() > 50


def counterfact():
    for i, subject in enumerate(SUBJECTS):
        old, new = CITIES[i % 3], CITIES[(i + 1) % 3]
        yield {
            "requested_rewrite": {
                "prompt": "{} lives in", "relation_id": "P551", "subject": subject,
                "target_new": {"str": new, "id": new}, "target_true": {"str": old, "id": old},
            },
            "paraphrase_prompts": [f"The home of {subject} is"],
            "neighborhood_prompts": [f"{SUBJECTS[i - 3]} lives in"],
            "generation_prompts": [f"{subject} is"],
        }  # fmt: skip


def easyedit():
    for i, subject in enumerate(SUBJECTS):
        yield {
            "prompt": f"{subject} lives in", "subject": subject, "target_new": CITIES[i % 3],
            "ground_truth": CITIES[(i + 1) % 3], "rephrase_prompt": f"The home of {subject} is",
            "locality_prompt": f"{SUBJECTS[i - 3]} lives in", "locality_ground_truth": CITIES[(i + 1) % 3],
        }  # fmt: skip


@pytest.mark.parametrize("layout", [counterfact, easyedit], ids=lambda layout: layout.__name__)
def test_a_file_of_requests_is_edited_without_a_world(checkout, llama, layout):
    (checkout.folder / "requests.json").write_text(json.dumps(list(layout())))
    config = {
        "run": {"models": ["mine"], "resamples": 20},
        "models": {
            "mine": {
                "source": {"kind": "folder", "path": str(llama)},
                "stages": ["editing"],
                "editing": {
                    "editors": ["mine-memit"],
                    "requests": {"kind": layout.__name__, "path": "requests.json", "count": 6},
                },
            }
        },
        "editors": {"mine-memit": {"kind": "memit", "schedule": {"n_edits": 6}, "values": {"v_num_grad_steps": 3}}},
        "covariances": {"prose": {"corpus": "prose", "tokens_per_key_dim": 20}},
    }
    run = checkout.snakemake("all", "--cores", "2", config=checkout.write_config(config)).passed()

    assert {job.split()[0] for job in run.jobs()} == {
        "convert_model", "link_pretrained_model", "select_requests", "generate_corpus", "tokenize_corpus",
        "compute_key_covariance", "edit_model", "summarise_edits", "summarise_costs", "all",
    }  # fmt: skip
    edits = pd.read_csv(checkout.folder / "results/tables/edits.csv")
    assert {"efficacy", "paraphrase"} <= set(edits["metric"])
    assert edits["n_edits"].max() == 6
    assert not (checkout.folder / "results/worlds").exists()


@pytest.mark.parametrize(
    ("editing", "text"),
    [
        ({"evaluation": {"tasks": ["world"]}}, "editing.evaluation.tasks: `world` needs the facts of a world"),
        ({"survival": {"editors": ["memit"]}}, "editing.survival.editors needs the facts of a world"),
        ({"requests": {"known_only": True}}, "editing.requests.known_only is for requests of kind world"),
    ],
)
def test_what_needs_a_world_says_so(editing, text):
    requests = {"kind": "zsre", "path": "zsre.json"} | editing.get("requests", {})
    mine = {
        "source": {"kind": "folder", "path": "."},
        "stages": ["editing"],
        "editing": {"editors": ["memit"]} | editing | {"requests": requests},
    }
    default = yaml.safe_load((ROOT / "config/config.yaml").read_text())

    with pytest.raises(ConfigError, match=f"models.mine.{text}"):
        read_config(default, {"run": {"models": ["mine"]}, "models": {"mine": mine}})
