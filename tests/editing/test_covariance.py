"""Key covariance: one pass over all blocks against a slow loop."""

import pandas as pd
import pytest
import torch

from factlife.editing.covariance import compute_covariance, load_covariance, save_covariance, select_documents
from factlife.editing.requests import EditError
from factlife.models.anatomy import patch


@pytest.fixture
def sequences(generator):
    return [torch.randint(3, 20, (length,), generator=generator).tolist() for length in [5, 9, 2, 7, 30, 4] * 4]


def test_one_pass_finds_what_a_pass_per_block_and_document_finds(target, sequences):
    found, _ = compute_covariance(target.model, sequences, tokens_per_key_dim=1000, pad_token_id=0, max_length=12)

    for layer, block in enumerate(target.parts.blocks):
        total, count = torch.zeros(48, 48, dtype=torch.float64), 0
        for ids in sequences:
            seen = []
            with patch(block.mlp_out, seen.append, inputs=True), torch.no_grad():
                target.model(torch.tensor([ids[:12]]))
            keys = seen[0][0].double()
            total, count = total + keys.T @ keys, count + len(keys)
        assert (found[layer] - total / count).norm() <= 1e-6 * found[layer].norm()
        assert (torch.linalg.eigvalsh(found[layer]) > -1e-9).all()


def test_only_as_many_tokens_as_asked_are_read_and_convergence_is_logged(target, sequences):
    calls = []
    with patch(target.parts.blocks[0].module, lambda hidden: calls.append(hidden.shape[0] * hidden.shape[1])):
        _, log = compute_covariance(target.model, sequences, tokens_per_key_dim=2, pad_token_id=0)

    assert 96 <= log[-1]["tokens"] <= 96 + 30
    assert len(calls) < len(sequences), "documents of similar length share a pass"
    assert all(entry["change"] >= 0 for entry in log) and len(log) >= 2


def test_of_some_blocks_the_same_is_found_and_later_ones_do_not_run(target, sequences):
    whole, log = compute_covariance(target.model, sequences, tokens_per_key_dim=10, pad_token_id=0)
    ran = []
    with patch(target.parts.blocks[2].module, ran.append, inputs=True):
        some, same_log = compute_covariance(
            target.model, sequences, tokens_per_key_dim=10, pad_token_id=0, layers=[1, 0]
        )
        assert not ran
        last, _ = compute_covariance(target.model, sequences, tokens_per_key_dim=10, pad_token_id=0, layers=[-1])

    assert some.keys() == {0, 1} and all(torch.equal(some[layer], whole[layer]) for layer in some)
    assert len(same_log) == len(log)
    assert last.keys() == {2} and torch.equal(last[2], whole[2]) and ran
    with pytest.raises(EditError, match="layer 3 does not exist: the model has blocks 0 to 2"):
        compute_covariance(target.model, sequences, tokens_per_key_dim=10, pad_token_id=0, layers=[3])


def test_too_few_tokens_are_an_error(target):
    with pytest.raises(EditError, match="3 tokens cannot span keys of 48 dimensions"):
        compute_covariance(target.model, [[4, 5, 6]], tokens_per_key_dim=10, pad_token_id=0)


def test_documents_that_mention_who_is_left_out_are_not_read():
    tokens = pd.DataFrame({"entity_ids": [["one", "two"], ["two"], []], "input_ids": [[1], [2], [3]]})

    assert select_documents(tokens, set()) == [[1], [2], [3]]
    assert select_documents(tokens, {"one"}) == [[2], [3]]


def test_covariance_of_other_weights_is_refused(target, tmp_path):
    save_covariance(target.covariance, tmp_path / "a.safetensors", model="abcdef0123")

    read = load_covariance(tmp_path / "a.safetensors", model="abcdef0123")
    assert all(torch.equal(read[layer], moment) for layer, moment in target.covariance.items())
    with pytest.raises(EditError, match="computed on other weights"):
        load_covariance(tmp_path / "a.safetensors", model="0123abcdef")
