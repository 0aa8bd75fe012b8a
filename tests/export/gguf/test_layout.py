"""Weights under llama.cpp's names and in its order; what a file cannot say is refused."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from potstill.core.errors import ModelError
from potstill.export.gguf.layout import hyperparameters, layout_of, paired, tensors
from tests.export.gguf.tiny import KINDS, SIZES


def rotate_halves(rows_HD, angles_D2):
    """Row i with row i + d/2, as transformers rotates."""
    first, second = rows_HD.chunk(2, -1)
    turned = first * angles_D2.cos() - second * angles_D2.sin(), second * angles_D2.cos() + first * angles_D2.sin()
    return torch.cat(turned, -1)


def rotate_neighbours(rows_HD, angles_D2):
    """Row 2i with row 2i + 1, as the paper writes it and llama.cpp does for Llama."""
    first, second = rows_HD[..., ::2], rows_HD[..., 1::2]
    turned = first * angles_D2.cos() - second * angles_D2.sin(), second * angles_D2.cos() + first * angles_D2.sin()
    return torch.stack(turned, -1).flatten(-2)


def test_rows_are_paired_by_hand():
    rows = torch.arange(8.0)[:, None]
    assert paired(rows, 1).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert paired(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_scores_are_the_same_under_the_other_rotation():
    """3 query heads of 1 key head, at two positions: queries and keys permuted alike give equal products."""
    draw = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(heads * 8, 5, generator=draw) for heads in (3, 1))
    state, angles = torch.randn(5, generator=draw), torch.tensor([1.0, 0.1, 0.01, 0.001])
    scores = []
    for order, rotate in ((lambda one, _: one, rotate_halves), (paired, rotate_neighbours)):
        query_HD = rotate((order(queries, 3) @ state).view(3, 8), 7 * angles)
        key_D = rotate((order(keys, 1) @ state).view(1, 8), 2 * angles)
        scores.append(query_HD @ key_D.T)
    torch.testing.assert_close(*scores)


def test_sizes_of_a_cut_model_with_heads_of_their_own_size():
    found = hyperparameters(
        KINDS["llama"](num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=32)
    )
    assert found["attention.key_length"] == found["rope.dimension_count"] == 32
    assert (found["block_count"], found["attention.head_count"], found["attention.head_count_kv"]) == (1, 2, 1)
    assert found["rope.freq_base"] == 5e4


@pytest.mark.parametrize(
    ("tied", "tables"), [(True, ["token_embd.weight"]), (False, ["token_embd.weight", "output.weight"])]
)
def test_a_tied_table_is_written_once(tied, tables):
    names = [name for name, _ in tensors(KINDS["llama"](tie_word_embeddings=tied))]
    assert [name for name in names if "blk" not in name and "norm" not in name] == tables
    assert len(names) == len(set(names)) == len(tables) + 1 + 2 * 9


def test_only_queries_and_keys_of_llama_move():
    llama, qwen = KINDS["llama"](), KINDS["qwen2"]()
    before = {name: weight for name, weight in llama.named_parameters() if ".0." in name}
    found = dict(tensors(llama))
    assert not torch.equal(found["blk.0.attn_q.weight"], before["model.layers.0.self_attn.q_proj.weight"])
    assert torch.equal(found["blk.0.attn_v.weight"], before["model.layers.0.self_attn.v_proj.weight"])
    assert torch.equal(dict(tensors(qwen))["blk.0.attn_q.bias"], qwen.model.layers[0].self_attn.q_proj.bias)


def test_another_architecture_is_named_with_what_is_supported(classifier):
    with pytest.raises(ModelError, match=r"llama, qwen2, qwen3, and this is a `bert`"):
        layout_of(classifier.module)
    sizes = {name: size for name, size in SIZES.items() if name != "tie_word_embeddings"}
    with pytest.raises(ModelError, match="`mistral`"):
        layout_of(MistralForCausalLM(MistralConfig(**sizes)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_type linear"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_what_a_file_cannot_say_is_refused(changes, told):
    with pytest.raises(ModelError, match=f"no place for {told} of this llama"):
        layout_of(KINDS["llama"](**changes))


def test_a_weight_without_a_name_is_refused():
    module = KINDS["llama"]()
    module.projection = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"2 weights \(projection.weight, projection.bias\) have no name"):
        list(tensors(module))
