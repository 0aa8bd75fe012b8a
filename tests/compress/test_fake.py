"""Gradients against what is on paper, one value at a time; then the layers against ordinary ones."""

import copy
import math

import pytest
import torch
from torch import nn

from potstill.compress.fake import InputGrid, Padding, TokenGrid, WeightGrid, on_grid, step_gain
from potstill.compress.fake_layers import FakeEmbedding, FakeLinear
from potstill.compress.grids import Grid, Steps, fitted, integer_linear, quantise, round_trip
from tests.oracle import quantisation as oracle

FOUR = Grid(4, per="tensor")


def steps(step, zero=0.0):
    return Steps(torch.tensor(step), torch.tensor(zero))


class TestStraightThrough:
    @pytest.mark.parametrize("grid", [FOUR, Grid(4, False, "tensor"), Grid(8, False, "tensor")], ids=str)
    def test_exactly_one_inside_and_zero_outside(self, grid):
        zero = 0.0 if grid.symmetric else 3.0
        ends = [(grid.lowest - zero) * 0.5, (grid.highest - zero) * 0.5]
        values = torch.tensor([ends[0] - 0.01, ends[0], -0.2, 0.0, 0.3, ends[1], ends[1] + 0.01], requires_grad=True)
        upstream = torch.arange(1.0, 8.0)
        on_grid(values, steps(0.5, zero), grid).backward(upstream)
        assert values.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]

    def test_forward_is_the_round_trip(self):
        values = torch.randn(5, 6)
        for grid in (Grid(), Grid(4, per="group", group=3, step_bits=16), Grid(3, False, "tensor")):
            found = fitted(values, grid)
            assert torch.equal(on_grid(values, found, grid), round_trip(values, found, grid))


class TestLearnedStep:
    def test_by_hand(self):
        # v = 0.6, -1.4, 9, -9 on codes -7..7: 1 - 0.6, -1 + 1.4, 7, -7; and a gain of one half.
        step = torch.tensor(0.5, requires_grad=True)
        values = torch.tensor([0.3, -0.7, 4.5, -4.5])
        on_grid(values, Steps(step, torch.tensor(0.0)), FOUR, 0.5).backward(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
        assert step.grad.item() == pytest.approx(0.5 * (0.4 + 10 * 0.4 + 100 * 7 - 1000 * 7), rel=1e-5)

    @pytest.mark.parametrize("per", ["tensor", "row", "group"])
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_against_loops(self, per, symmetric):
        grid = Grid(3, symmetric, per, group=2 if per == "group" else None)
        values, upstream = torch.randn(4, 6) * 2, torch.randn(4, 6)
        found = fitted(values * 0.7, grid)
        step = found.step.clone().requires_grad_()
        on_grid(values, Steps(step, found.zero), grid, 0.25).backward(upstream)
        slow = torch.zeros_like(step).flatten()
        for row in range(4):
            for column in range(6):
                at = {"tensor": 0, "row": row, "group": row * 3 + column // 2}[per]
                s, z = found.step.flatten()[at].item(), int(found.zero.flatten()[at])
                v = values[row, column].item() / s
                inside = grid.lowest <= v + z <= grid.highest
                slope = round(v) - v if inside else oracle.code(v * s, s, z, 3, symmetric) - z
                slow[at] += 0.25 * upstream[row, column] * slope
        assert torch.allclose(step.grad.flatten(), slow, atol=1e-5)

    def test_it_is_the_derivative_outside_where_the_function_has_one(self):
        # Far outside, the value on the grid is 7 * step: the finite difference and the gradient are 7.
        step = torch.tensor(0.5, requires_grad=True)
        far = torch.tensor([40.0])
        on_grid(far, Steps(step, torch.tensor(0.0)), FOUR).sum().backward()
        ahead, behind = (on_grid(far, steps(0.5 + off), FOUR).item() for off in (0.01, -0.01))
        assert step.grad.item() == pytest.approx((ahead - behind) / 0.02, rel=1e-4)

    def test_gain(self):
        assert step_gain(64, FOUR) == pytest.approx(1 / math.sqrt(64 * 7))
        held = WeightGrid(torch.randn(5, 64), Grid(4))
        held.learn()
        weight = torch.randn(5, 64)
        held(weight).sum().backward()
        step = held.step.detach().clone().requires_grad_()
        on_grid(weight, Steps(step, held.zero), Grid(4)).sum().backward()
        assert torch.allclose(held.step.grad, step.grad / math.sqrt(64 * 7))

    def test_a_learned_step_finds_the_least_error(self):
        values = torch.randn(4000, generator=torch.Generator().manual_seed(0))
        step = nn.Parameter(torch.tensor(1.0))
        optimiser = torch.optim.Adam([step], lr=0.01)
        for _ in range(300):
            optimiser.zero_grad()
            (on_grid(values, Steps(step, torch.tensor(0.0)), FOUR) - values).square().mean().backward()
            optimiser.step()
        candidates = torch.linspace(0.05, 1, 200)
        errors = [(round_trip(values, steps(float(one)), FOUR) - values).square().mean() for one in candidates]
        assert step.item() == pytest.approx(candidates[int(torch.stack(errors).argmin())].item(), rel=0.1)

    def test_a_step_that_training_drives_below_zero_stays_positive(self):
        held = WeightGrid(torch.randn(3, 4), Grid())
        held.step.fill_(-1.0)
        assert (held.steps(torch.randn(3, 4)).step > 0).all()
        assert torch.isfinite(held(torch.randn(3, 4))).all()


class TestLayers:
    def test_names_in_the_state_stay(self):
        linear = nn.Linear(6, 4)
        fake = FakeLinear(linear, WeightGrid(linear.weight, Grid()), None)
        assert fake.weight is linear.weight
        assert fake.bias is linear.bias
        assert {"weight", "bias"} <= set(fake.state_dict())
        assert set(fake.state_dict()) - {"weight", "bias"} == {"weight_grid.step", "weight_grid.zero"}
        table = nn.Embedding(5, 4, padding_idx=2)
        embedding = FakeEmbedding(table, WeightGrid(table.weight, Grid()))
        assert embedding.weight is table.weight
        assert embedding.padding_idx == 2

    @pytest.mark.parametrize("dynamic", [True, False])
    def test_the_integer_path_is_the_float_path(self, dynamic):
        linear = nn.Linear(48, 7)
        grid = Grid(8, symmetric=False, per="row" if dynamic else "tensor")
        inputs = torch.randn(2, 5, 48) * 2 + 0.5
        read = TokenGrid(grid) if dynamic else InputGrid(48, grid, (-4.0, 5.0), Padding(), "it")
        fake = FakeLinear(linear, WeightGrid(linear.weight, Grid()), read)
        steps_x = fitted(inputs, grid) if dynamic else read.steps()
        steps_w = fake.weight_grid.steps(linear.weight)
        codes = quantise(inputs, steps_x, grid), quantise(linear.weight.detach(), steps_w, Grid())
        found = integer_linear(codes[0], steps_x, codes[1], steps_w) + linear.bias
        assert (found - fake(inputs)).abs().max() <= 1e-6 * max(1, found.abs().max().item())

    def test_dynamic_is_per_token(self):
        grid = TokenGrid(Grid(8, symmetric=False))
        values = torch.randn(2, 3, 16)
        alone = grid(values)
        values[1, 2] *= 1e4
        assert torch.equal(grid(values)[0], alone[0])
        assert torch.equal(grid(values)[1, :2], alone[1, :2])

    @pytest.mark.parametrize("per", ["tensor", "row", "group"])
    @pytest.mark.parametrize("mode", ["fixed", "follows", "learned"])
    def test_an_embedding_reads_its_rounded_table(self, per, mode):
        grid = Grid(4, per=per, group=4 if per == "group" else None)
        table = nn.Embedding(9, 8, padding_idx=0)
        embedding = FakeEmbedding(table, WeightGrid(table.weight, grid))
        embedding.weight_grid.follows = mode == "follows"
        if mode == "learned":
            embedding.weight_grid.learn()
        ids = torch.tensor([[1, 3], [8, 1]])
        whole = round_trip(table.weight.detach(), fitted(table.weight.detach(), grid), grid)
        assert torch.equal(embedding(ids), whole[ids])
        embedding(ids).sum().backward()
        assert torch.equal(table.weight.grad.abs().sum(1) > 0, torch.tensor([row in (1, 3, 8) for row in range(9)]))
        assert (embedding.weight_grid.step.grad is not None) == (mode == "learned")


class TestMovingRanges:
    def read(self):
        padding = Padding()
        grid = InputGrid(4, Grid(symmetric=False, per="tensor"), None, padding, "it")
        grid.moves = True
        return grid, padding

    def test_training_moves_and_evaluation_does_not(self):
        grid, _ = self.read()
        assert not grid.ranged
        grid.eval()
        values = torch.randn(3, 4)
        assert torch.equal(grid(values), values)
        grid.train()
        grid(values)
        assert grid.ranged
        assert (grid.low.item(), grid.high.item()) == (values.min().item(), values.max().item())
        before = copy.deepcopy(grid.state_dict())
        grid.eval()
        grid(values * 100)
        grid.train()
        grid.fix()
        grid(values * 100)
        assert all(torch.equal(one, before[name]) for name, one in grid.state_dict().items())

    def test_padding_moves_nothing(self):
        grid, padding = self.read()
        values = torch.randn(2, 3, 4)
        values[:, 2] = 1e6
        padding.mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
        grid(values)
        assert grid.high.item() == values[:, :2].max().item()
        padding.mask = torch.zeros(2, 3, dtype=torch.long)
        before = grid.high.clone()
        grid(values)
        assert torch.equal(grid.high, before)

    def test_the_mask_is_found_by_name_and_by_place_and_forgotten(self):
        class Reader(nn.Module):
            def forward(self, input_ids, attention_mask=None):
                return input_ids

        padding, reader, mask = Padding(), Reader(), torch.ones(2, 3)
        reader.register_forward_pre_hook(padding, with_kwargs=True)
        reader(mask, attention_mask=mask)
        assert padding.mask is mask
        reader(mask)
        assert padding.mask is None
        reader(mask, mask)
        assert padding.mask is mask
