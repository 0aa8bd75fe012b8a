import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potstill.compress.magnitude import global_wise, layer_wise, n_of_m, prunable, share_of
from potstill.compress.masks import Masks
from potstill.core.errors import ModelError
from tests.students.tiny import tiny


def oracle(values, count):
    """Sort (magnitude, place) and take the first `count`."""
    return {place for _, place in sorted((abs(value), place) for place, value in enumerate(values))[:count]}


def gone(mask):
    return set((~mask.flatten()).nonzero().flatten().tolist())


@given(st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=2, max_size=30), st.integers(0, 100))
def test_exactly_the_floor_goes_and_ties_are_broken_by_place(values, percent):
    weights = {"w": torch.tensor(values)}
    masks = layer_wise(weights, percent / 100)
    wanted = min(math.floor(Fraction(percent, 100) * len(values)), len(values) - 1)
    assert gone(masks.kept["w"]) == oracle(values, wanted)
    assert masks.zeros == wanted
    assert bool(masks.notes) == (percent == 100)


def test_a_share_is_the_decimal_it_is_written_as():
    assert [share_of(100, share) for share in (0.29, 0.57, 0.58, 1.0, 0.0)] == [29, 57, 58, 100, 0]
    assert share_of(7, 0.5) == 3


def test_magnitudes_are_compared_in_their_own_precision():
    close = torch.tensor([1.0 + 1e-12, 1.0], dtype=torch.float64)
    assert gone(layer_wise({"w": close}, 0.5).kept["w"]) == {1}
    assert gone(layer_wise({"w": torch.tensor([2.0, 1.0], dtype=torch.bfloat16)}, 0.5).kept["w"]) == {1}


@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0]), min_size=6, max_size=20), st.integers(0, 80))
def test_global_is_one_sort_over_all(values, percent):
    first, second = torch.tensor(values[:3]), torch.tensor(values[3:])
    masks = global_wise({"a": first, "b": second}, percent / 100)
    assert masks.zeros == math.floor(Fraction(percent, 100) * len(values))
    if not masks.notes:
        chosen = gone(masks.kept["a"]) | {place + 3 for place in gone(masks.kept["b"])}
        assert chosen == oracle(values, masks.zeros)


def test_global_spares_the_matrix_it_would_empty_and_keeps_the_count():
    weights = {"large": torch.tensor([5.0, 6.0, 7.0, 8.0]), "small": torch.tensor([0.1, 0.2, 0.3, 0.4])}
    masks = global_wise(weights, 0.5)
    assert gone(masks.kept["small"]) == {0, 1, 2}
    assert gone(masks.kept["large"]) == {0}
    assert "small" in masks.notes[0]
    assert "capped" in masks.notes[0]
    masks = global_wise(weights, 0.5, most=0.5)
    assert (gone(masks.kept["small"]), gone(masks.kept["large"])) == ({0, 1}, {0, 1})


def test_everything_is_never_taken():
    masks = global_wise({"a": torch.arange(1.0, 4.0), "b": torch.arange(1.0, 3.0)}, 1.0)
    assert masks.zeros == 3
    assert [gone(mask) for mask in masks.kept.values()] == [{0, 1}, {0}]
    assert masks.notes


def test_a_layer_of_small_weights_shows_the_difference():
    weights = {"large": torch.arange(10.0, 20.0), "small": torch.arange(1.0, 11.0) / 10}
    assert gone(global_wise(weights, 0.3).kept["small"]) == {0, 1, 2, 3, 4, 5}
    assert gone(layer_wise(weights, 0.3).kept["small"]) == {0, 1, 2}


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (4, 8)])
@pytest.mark.parametrize("transposed", [False, True])
def test_n_of_m_holds_in_every_group(n, m, transposed):
    weight = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    mask = n_of_m({"w": weight}, n, m, transposed=transposed).kept["w"]
    rows, kept = (weight.T, mask.T) if transposed else (weight, mask)
    for row, keep in zip(rows.tolist(), kept.tolist(), strict=True):
        for start in range(0, len(row), m):
            group = row[start : start + m]
            chosen = {place for place in range(m) if keep[start + place]}
            assert len(chosen) == n
            assert chosen == set(range(m)) - oracle(group, m - n)


def test_n_of_m_breaks_ties_by_place():
    assert n_of_m({"w": torch.ones(1, 4)}, 2, 4).kept["w"].tolist() == [[False, False, True, True]]


def test_n_of_m_refuses_what_does_not_divide():
    with pytest.raises(ModelError, match="input width 6 is not a multiple of 4"):
        n_of_m({"w": torch.ones(2, 6)}, 2, 4)
    with pytest.raises(ModelError, match="4:4"):
        n_of_m({"w": torch.ones(2, 8)}, 4, 4)


@pytest.mark.parametrize("function", [layer_wise, global_wise])
def test_bad_input_is_refused(function):
    with pytest.raises(ModelError, match=r"sparsity: 1\.5"):
        function({"w": torch.ones(3)}, 1.5)
    with pytest.raises(ModelError, match=r"w: .*not finite"):
        function({"w": torch.tensor([1.0, float("nan")])}, 0.5)
    with pytest.raises(ModelError, match="most: 0"):
        global_wise({"w": torch.ones(3)}, 0.5, most=0.0)


@pytest.mark.parametrize("function", [layer_wise, global_wise])
def test_former_zeros_stay_gone_even_beside_other_zeros(function):
    weights = {"w": torch.tensor([0.0, 3.0, 0.0, 2.0])}
    former = Masks({"w": torch.tensor([True, True, False, True])})
    assert gone(function(weights, 0.25, former).kept["w"]) == {2}
    assert gone(function(weights, 0.5, former).kept["w"]) == {0, 2}


@pytest.mark.parametrize(
    ("kind", "task", "count"), [("bert", "classify", 6), ("llama", "causal-lm", 7), ("gpt2", "causal-lm", 4)]
)
def test_only_matrices_inside_the_blocks_are_prunable(kind, task, count):
    found = prunable(tiny(kind, task))
    assert len(found) == 4 * count
    assert all(weight.dim() == 2 for weight in found.values())
    assert not [
        name for name in found if "embed" in name or "norm" in name.lower() or "head" in name or "pooler" in name
    ]


def test_an_unknown_architecture_is_named():
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=20, embedding_size=4)
    with pytest.raises(ModelError, match=r"`albert`.*known are bert"):
        prunable(AlbertModel(config))
