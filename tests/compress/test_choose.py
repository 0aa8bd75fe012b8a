import pytest
import torch

from potstill.compress.choose import UnitScores, choose
from potstill.compress.prune import apply
from potstill.compress.scores import block_influence, channel_scores, gate_scores
from potstill.core.errors import ModelError
from potstill.students.axes import sizes_of
from potstill.students.layer_map import evenly
from potstill.students.surgery import best, keep_neurons, neuron_scores
from tests.compress.calibration import model, rows_for
from tests.students.tiny import tiny


def rising(rows, count):
    """The later a unit the better, another order in every block."""
    return [torch.arange(count, dtype=torch.float64).roll(row) for row in range(rows)]


LLAMA = UnitScores(
    neurons=rising(4, 24),
    heads=[torch.tensor([3.0, 1.0, 2.0, 4.0])] * 4,
    groups=[torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.1])] * 2,
    width=torch.arange(16.0),
    blocks=[0.5, 0.1, 0.3, 0.2],
)


def test_the_best_stay_and_keep_their_order():
    plan = choose(tiny("llama", "causal-lm"), LLAMA, keep={"neurons": 3, "groups": 1, "width": 12, "blocks": 2})
    assert plan.blocks == (0, 2)
    assert plan.channels == tuple(range(4, 16))
    assert [layer.neurons for layer in plan.layers] == [(21, 22, 23), (0, 1, 23)]
    assert [layer.heads for layer in plan.layers] == [(2, 3), (2, 3)]
    assert plan.notes == ()


def test_heads_are_chosen_within_each_group_that_stays():
    plan = choose(tiny("llama", "causal-lm"), LLAMA, keep={"heads": 2})
    assert {layer.heads for layer in plan.layers} == {(0, 3)}
    plan = choose(tiny("llama", "causal-lm"), LLAMA, keep={"heads": 1, "groups": 1})
    assert [layer.heads for layer in plan.layers] == [(3,), (0,), (3,), (0,)]


def test_of_equal_scores_the_first_stay():
    assert best(torch.tensor([1.0, 2.0, 1.0, 1.0]), 2) == (0, 1)
    with pytest.raises(ModelError, match="not a number"):
        best(torch.tensor([1.0, float("nan")]), 1)


def test_a_share_is_removed_by_its_floor():
    plan = choose(tiny("llama", "causal-lm"), LLAMA, remove={"neurons": 0.3, "blocks": 0.5})
    assert plan.after.neurons == 24 - 7
    assert plan.blocks == (0, 2)
    assert plan.notes == ()


def test_what_would_empty_a_kind_is_capped_and_said():
    plan = choose(tiny("llama", "causal-lm"), LLAMA, remove={"neurons": 1.0, "groups": 1.0, "blocks": 1.0})
    assert (plan.after.neurons, plan.after.groups, plan.after.depth) == (1, 1, 1)
    assert [note.split(":")[0] for note in plan.notes] == [
        "removing 1 of the groups would have left none",
        "removing 1 of the neurons would have left none",
        "removing 1 of the blocks would have left none",
    ]


def test_what_a_config_cannot_say_is_rounded_and_said():
    plan = choose(tiny("llama", "causal-lm"), LLAMA, remove={"width": 0.2, "heads": 0.3})
    assert (plan.after.width, plan.after.heads) == (16, 4)
    assert plan.notes == (
        "removing 0.3 of the heads leaves 3; 4 stay, a multiple of 2",
        "removing 0.2 of the width leaves 13; 16 stay, a multiple of 4",
    )


def test_bert_loses_heads_and_width_together():
    scores = UnitScores(heads=[torch.tensor([0.1, 0.2])] * 4, width=torch.arange(16.0))
    plan = choose(tiny("bert", "classify"), scores, remove={"heads": 0.5, "width": 0.5})
    assert (plan.after.heads, plan.after.width, plan.after.head_size) == (1, 8, 8)
    assert {layer.heads for layer in plan.layers} == {(1,)}


def test_evenly_spaced_blocks_need_no_scores():
    assert choose(tiny("bert", "classify"), UnitScores(), blocks=evenly(2, 4)).blocks == (0, 2)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"keep": {"groups": 0}}, r"groups: 0 of 2 cannot be kept: use 1 to 2\. No key-value group would be left"),
        ({"keep": {"heads": 3}}, "3 cannot be shared by 2 key-value groups"),
        ({"keep": {"heads": 1}}, "1 cannot be shared by 2"),
        ({"keep": {"neurons": 25}}, "25 of 24"),
        ({"keep": {"neurons": 3}, "remove": {"neurons": 0.5}}, "neurons: a number to keep and a share"),
        ({"remove": {"neurons": 1.5}}, r"1\.5 to remove"),
        ({"keep": {"layers": 3}}, "layers: no kind of unit: use neurons"),
        ({"keep": {"blocks": 2}, "blocks": (0, 1)}, "give one of the two"),
        ({"keep": {"width": 13}}, "width 13 with 4 heads"),
    ],
)
def test_bad_requests_are_refused(asked, said):
    with pytest.raises(ModelError, match=said):
        choose(tiny("llama", "causal-lm"), LLAMA, **asked)


def test_missing_and_foreign_scores_are_refused():
    with pytest.raises(ModelError, match=r"neurons: no scores.*UnitScores\(neurons"):
        choose(tiny("llama", "causal-lm"), UnitScores(), keep={"neurons": 3})
    with pytest.raises(ModelError, match="4 rows of 24 are needed"):
        choose(tiny("llama", "causal-lm"), UnitScores(neurons=rising(4, 23)), keep={"neurons": 3})
    with pytest.raises(ModelError, match="groups are its heads: cut heads"):
        choose(tiny("bert", "classify"), UnitScores(), keep={"groups": 1})


def test_by_weight_norms_it_is_keep_neurons():
    source = tiny("llama", "causal-lm")
    small = apply(source, choose(source, UnitScores(neurons=neuron_scores(source)), keep={"neurons": 10}))
    for ours, theirs in zip(small.parameters(), keep_neurons(source, 10).parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_measured_scores_make_a_plan_that_is_carried_out():
    source, batch = model("llama", torch.float32), rows_for("llama")
    found = gate_scores(source, [batch])
    scores = UnitScores(
        neurons=found.neurons,
        heads=found.heads,
        groups=found.groups,
        width=channel_scores(source, [batch]),
        blocks=block_influence(source, [batch]),
    )
    small = apply(
        source, choose(source, scores, keep={"neurons": 12, "groups": 1, "heads": 1, "width": 8, "blocks": 3})
    )
    assert str(sizes_of(small)) == "Sizes(depth=3, width=8, heads=1, groups=1, head_size=4, neurons=12)"
    with torch.no_grad():
        assert small(batch.tokens_BL).logits.isfinite().all()
