"""Movement pruning against its formulas: gradients of scores, thresholds, the regulariser, and who may be pruned."""

import pytest
import torch
from torch import nn

from potstill.compress.movement import (
    Gate,
    GatedLinear,
    above,
    first_threshold,
    gated_linears,
    install,
    lowered,
    regulariser,
    remove,
)
from potstill.core.errors import ModelError
from potstill.core.signal import Want
from potstill.students.layouts import blocks_of
from potstill.students.taps import outputs
from tests.compress.calibration import model, rows_for


def gates_of(groups):
    return [gate for group in groups for gate in group.members.values()]


class TestScores:
    @pytest.mark.parametrize(("axis", "size", "units"), [(0, 1, 6), (0, 3, 2), (1, 1, 4), (1, 2, 2)])
    def test_the_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight(self, axis, size, units):
        linear = nn.Linear(4, 6, bias=False).double()
        gate = Gate(linear.weight, axis, size).double()
        inputs, target = torch.randn(5, 4).double(), torch.randn(5, 6).double()
        ((inputs @ gate(linear.weight).T - target) ** 2).sum().backward()
        free = linear.weight.detach().clone().requires_grad_()
        ((inputs @ free.T - target) ** 2).sum().backward()
        product = free.grad * free.detach()
        expected = product.sum(1 - axis).view(units, size).sum(1)
        torch.testing.assert_close(gate.scores.grad, expected, rtol=1e-12, atol=1e-12)

    def test_a_weight_that_moves_away_from_zero_gains_score(self):
        weight = nn.Parameter(torch.tensor([[2.0], [-2.0]]))
        gate = Gate(weight, 0, 1)
        # The loss falls when the first weight grows and when the second one grows too, towards zero.
        (-gate(weight)).sum().backward()
        stepped = -gate.scores.grad
        assert stepped[0] > 0 > stepped[1]

    def test_a_masked_weight_has_no_gradient_and_its_score_still_has_one(self):
        weight = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        gate = Gate(weight, 0, 1)
        gate.scores.data = torch.tensor([1.0, -1.0])
        gate.threshold.fill_(0.0)
        gate(weight).sum().backward()
        assert weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]
        assert gate.scores.grad.tolist() == [3.0, 7.0]

    def test_settled_scores_are_no_parameters_and_nothing_moves_the_mask(self):
        weight = nn.Parameter(torch.ones(3, 2))
        gate = Gate(weight, 0, 1)
        optimiser = torch.optim.AdamW([weight, gate.scores], lr=0.1)
        gate(weight).sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        gate.kept.copy_(torch.tensor([True, False, True]))
        gate.settle()
        before = gate.scores.clone()
        gate(weight).sum().backward()
        optimiser.step()  # Adam's momentum still points somewhere
        assert torch.equal(gate.scores, before)
        assert gate.mask().tolist() == [1, 0, 1]
        assert "scores" not in dict(gate.named_parameters())


class TestThresholds:
    def test_before_the_warm_up_nothing_is_masked(self):
        gate = Gate(torch.zeros(5, 2), 0, 1)
        assert gate.mask().tolist() == [1] * 5

    def test_a_score_must_exceed_the_threshold(self):
        scores = torch.tensor([-1.0, 0.0, 0.5, 2.0])
        assert above(scores, torch.tensor(0.0)).tolist() == [False, False, True, True]

    def test_no_more_than_98_percent_of_a_layer_is_masked(self):
        scores = torch.arange(100.0)
        assert float(lowered(scores, torch.tensor(1e9))) == pytest.approx(0.98 * 99)
        assert int(above(scores, torch.tensor(1e9)).sum()) == 2

    @pytest.mark.parametrize("scores", [torch.zeros(4), torch.tensor([1.0, 3.0, 2.0])])
    def test_the_best_unit_always_stays(self, scores):
        kept = above(scores, torch.tensor(1e9))
        assert kept.any()
        assert bool(kept[scores.argmax()])

    def test_the_first_threshold_masks_the_share_that_is_asked(self):
        groups = install(model("bert"), ("neurons",))
        generator = torch.Generator().manual_seed(0)
        for gate in gates_of(groups):
            gate.scores.data = torch.randn(gate.scores.shape, generator=generator)
        for share in (0.001, 0.1, 0.5):
            threshold = first_threshold(groups, share)
            scores = torch.cat([gate.scores for gate in gates_of(groups)])
            assert int((scores <= threshold).sum()) == max(1, int(share * scores.numel()))


class TestRegulariser:
    def test_it_is_the_mean_over_linears_of_half_the_block_times_the_mean_sigmoid(self):
        module = model("bert", torch.float32)
        install(module, ("neurons",))
        found, generator = [], torch.Generator().manual_seed(1)
        for linear in gated_linears(module).values():
            own = 0.0
            for gate, parameter in zip(linear.gates, (linear.weight, linear.bias), strict=False):
                gate.scores.data = torch.randn(gate.scores.shape, generator=generator)
                unit = parameter.numel() / gate.scores.numel()
                own += 0.5 * unit * float(torch.sigmoid(gate.scores).mean())
            found.append(own)
        assert float(regulariser(module)) == pytest.approx(sum(found) / len(found), rel=1e-6)

    def test_scores_of_zero_give_a_quarter_of_the_block(self):
        gate = Gate(torch.zeros(8, 3), 0, 2)
        assert float(gate.pressure()) == 0.25 * 6


class TestInstall:
    @pytest.mark.parametrize(
        ("kind", "kinds", "members"),
        [
            ("bert", ("neurons",), 3),
            ("gpt2", ("neurons",), 3),
            ("llama", ("neurons", "groups"), 3 + 4),
            ("qwen2", ("groups",), 7),
        ],
    )
    def test_open_gates_change_nothing_and_leave_nothing_behind(self, kind, kinds, members):
        module, batch = model(kind), rows_for(kind)
        names, want = list(module.state_dict()), Want()
        before = outputs(module, batch, want).logits_BTV
        groups = install(module, kinds)
        assert len(groups) == len(blocks_of(module)) * len(kinds)
        assert sum(len(group.members) for group in groups if group.block == 0) == members
        assert torch.equal(outputs(module, batch, want).logits_BTV, before)
        remove(module)
        assert list(module.state_dict()) == names
        assert not any(isinstance(one, GatedLinear) for one in module.modules())
        assert torch.equal(outputs(module, batch, want).logits_BTV, before)

    def test_heads_that_no_config_can_say_are_refused_by_name(self):
        with pytest.raises(ModelError, match=r"heads: a `bert` config has no head size.*use one of.*llama"):
            install(model("bert"), ("heads",))

    def test_groups_and_heads_are_told_apart(self):
        with pytest.raises(ModelError, match="heads share 2 keys and values: prune groups"):
            install(model("llama"), ("heads",))

    def test_an_unknown_architecture_is_named_with_those_that_are_known(self):
        module = model("bert")
        module.config.model_type = "albert"
        with pytest.raises(ModelError, match=r"`albert`.*known are bert.*llama"):
            install(module, ("neurons",))
