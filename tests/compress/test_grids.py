"""Known answers first, then properties, then the integer product against floats and plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potstill.compress.grids import (
    Grid,
    Steps,
    dequantise,
    effective_bits,
    fit,
    fitted,
    gathered,
    integer_linear,
    overflows,
    quantise,
    round_trip,
    spread,
    stored_bits,
)
from potstill.core.errors import InputError, NumbersError
from tests.oracle import quantisation as oracle

AFFINE = Grid(symmetric=False, per="tensor")
SYMMETRIC = Grid(per="tensor")
FOUR = torch.tensor([-1.0, 0.0, 0.5, 2.0])
GRIDS = [
    Grid(bits=bits, symmetric=symmetric, per=per, group=3 if per == "group" else None, step_bits=step_bits)
    for bits in (2, 3, 4, 7, 8)
    for symmetric in (True, False)
    for per in ("tensor", "row", "group")
    for step_bits in (16, 32)
]
floats = st.floats(-1e4, 1e4, width=32)


class TestKnownAnswers:
    def test_affine(self):
        steps = fitted(FOUR, AFFINE)
        assert steps.step.item() == pytest.approx(3 / 255, rel=1e-7)
        assert steps.zero.item() == -43
        codes = quantise(FOUR, steps, AFFINE)
        assert codes.tolist() == [-128, -43, -1, 127]
        assert dequantise(codes, steps, AFFINE).tolist() == pytest.approx([-1, 0, 0.494118, 2], abs=1e-6)

    def test_symmetric(self):
        steps = fitted(FOUR, SYMMETRIC)
        codes = quantise(FOUR, steps, SYMMETRIC)
        assert steps.step.item() == pytest.approx(2 / 127, rel=1e-7)
        assert codes.tolist() == [-64, 0, 32, 127]
        assert dequantise(codes, steps, SYMMETRIC).tolist() == pytest.approx([-1.007874, 0, 0.503937, 2], abs=1e-6)

    def test_row_scales(self):
        # 16 x 256, row scales from 0.01 to 1: squared error over squared values of each row, the mean over rows. The
        # known answer, 7.8e-2 against 5.3e-5, is one draw; the largest entry of the draw decides, so 40 are made.
        found = {"tensor": [], "row": []}
        for seed in range(40):
            scales = torch.logspace(-2, 0, 16).unsqueeze(1)
            weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(seed)) * scales
            for per, errors in found.items():
                grid = Grid(per=per)
                off = (round_trip(weight, fitted(weight, grid), grid) - weight).square().sum(1)
                errors.append(float((off / weight.square().sum(1)).mean()))
        for per, known in {"tensor": 7.8e-2, "row": 5.3e-5}.items():
            assert min(found[per]) < known < max(found[per])
            assert np.mean(found[per]) == pytest.approx(known, rel=0.25)

    def test_effective_bits(self):
        shape = torch.Size([256, 512])
        assert effective_bits(shape, Grid(4, per="group", group=128, step_bits=16)) == 4.125
        assert effective_bits(shape, Grid(4, per="group", group=32, step_bits=16)) == 4.5
        assert effective_bits(shape, Grid(4, False, per="group", group=32, step_bits=16)) == 4.625
        assert stored_bits(shape, Grid(8)) == 8 * 256 * 512 + 32 * 256
        assert stored_bits(shape, Grid(7)) == stored_bits(shape, Grid(8))
        assert stored_bits(shape, Grid(3)) == stored_bits(shape, Grid(4))

    @pytest.mark.parametrize(("bits", "codes"), [(8, (-127, 127)), (7, (-63, 63)), (4, (-7, 7))])
    def test_symmetric_codes_reach_equally_far(self, bits, codes):
        assert (Grid(bits).lowest, Grid(bits).highest) == codes
        assert Grid(bits, symmetric=False).lowest == codes[0] - 1

    def test_a_range_beside_zero_is_widened_to_it(self):
        values = torch.tensor([5.0, 6.0])
        steps = fitted(values, AFFINE)
        assert (steps.step.item(), steps.zero.item()) == (pytest.approx(6 / 255), -128)
        below = fitted(-values, AFFINE)
        assert (below.step.item(), below.zero.item()) == (pytest.approx(6 / 255), 127)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(values=st.lists(floats, min_size=12, max_size=12))
def test_against_plain_python_and_within_half_a_step(grid, values):
    matrix = torch.tensor(values).reshape(2, 6)
    steps = fitted(matrix, grid)
    codes, back = quantise(matrix, steps, grid), round_trip(matrix, steps, grid)
    step, zero = spread(steps.step, matrix, grid).expand(2, 6), spread(steps.zero, matrix, grid).expand(2, 6)
    for value, s, z, found in zip(*(one.flatten().tolist() for one in (matrix, step, zero, codes)), strict=True):
        paper = value / s
        if abs(abs(paper - np.floor(paper)) - 0.5) > 1e-4:  # at a tie, the last digit of fp32 decides
            assert found == oracle.code(value, s, int(z), grid.bits, grid.symmetric)
    # fp16 steps are rounded after the range was divided, so its ends may lie a little outside of what codes reach.
    inside = (matrix >= step * (grid.lowest - zero)) & (matrix <= step * (grid.highest - zero))
    assert ((back - matrix).abs() <= step / 2 * (1 + 1e-5))[inside].all()
    if grid.step_bits == 32:
        assert ((back - matrix).abs() <= step / 2 * (1 + 1e-4)).all()
    assert codes.min() >= grid.lowest
    assert codes.max() <= grid.highest


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(values=st.lists(floats, min_size=11, max_size=11))
def test_zero_comes_back_exactly(grid, values):
    matrix = torch.tensor([*values, 0.0]).reshape(2, 6)
    back = round_trip(matrix, fitted(matrix, grid), grid)
    assert back[1, 5].item() == 0
    again = round_trip(torch.zeros(2, 6), fitted(matrix, grid), grid)
    assert (again == 0).all()


@given(low=floats, high=floats, bits=st.integers(2, 8), symmetric=st.booleans())
def test_fit_against_plain_python(low, high, bits, symmetric):
    low, high = min(low, high), max(low, high)
    if max(abs(low), abs(high)) < 1e-30:
        return
    found = fit(torch.tensor(low), torch.tensor(high), Grid(bits, symmetric, per="tensor"))
    step, zero = oracle.steps(low, high, bits, symmetric)
    assert found.step.item() == pytest.approx(step, rel=1e-6)
    assert abs(found.zero.item() - zero) <= (abs(oracle.limits(bits, symmetric)[0] - low / step) % 1 > 0.499)


@pytest.mark.parametrize("value", [0.0, 1e-45, 3e38, -3e38])
@pytest.mark.parametrize("grid", [AFFINE, SYMMETRIC, Grid(4, per="tensor", step_bits=16)], ids=str)
def test_ranges_at_the_ends_of_floats(value, grid):
    values = torch.tensor([value, 0.0, -value])
    back = round_trip(values, fitted(values, grid), grid)
    assert torch.isfinite(back).all()
    assert back[1] == 0


def test_spread_and_gathered_are_transposed():
    values = torch.randn(4, 6)
    for grid in (Grid(per="tensor"), Grid(), Grid(per="group", group=2)):
        steps = torch.randn_like(fitted(values, grid).step)
        assert torch.allclose((spread(steps, values, grid) * values).sum(), (steps * gathered(values, grid)).sum())


class TestIntegers:
    @pytest.mark.parametrize("inputs_per", ["tensor", "row"])
    @pytest.mark.parametrize("weights_per", ["tensor", "row"])
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_the_integer_product_is_the_float_product(self, inputs_per, weights_per, symmetric):
        grid_x, grid_w = Grid(8, symmetric=False, per=inputs_per), Grid(8, symmetric=symmetric, per=weights_per)
        x, w = torch.randn(2, 5, 48) * 3 + 1, torch.randn(7, 48)
        steps_x, steps_w = fitted(x, grid_x), fitted(w, grid_w)
        codes_x, codes_w = quantise(x, steps_x, grid_x), quantise(w, steps_w, grid_w)
        found = integer_linear(codes_x, steps_x, codes_w, steps_w)
        floats_64 = dequantise(codes_x, steps_x, grid_x).double() @ dequantise(codes_w, steps_w, grid_w).double().T
        assert (found - floats_64).abs().max() <= 1e-6 * floats_64.abs().max()

    def test_against_loops(self):
        x, w = torch.tensor([[1, -128, 127]], dtype=torch.int8), torch.tensor([[-8, 7, 3]], dtype=torch.int8)
        steps_x, steps_w = (
            Steps(torch.tensor(0.5), torch.tensor(-3.0)),
            Steps(torch.tensor([0.25]), torch.tensor([2.0])),
        )
        paper = sum(0.5 * (a + 3) * 0.25 * (b - 2) for a, b in zip(x[0].tolist(), w[0].tolist(), strict=True))
        assert integer_linear(x, steps_x, w, steps_w).item() == paper

    def test_groups_are_refused(self):
        grid = Grid(4, per="group", group=4)
        w = torch.randn(3, 8)
        steps = fitted(w, grid)
        x = torch.randn(2, 8)
        steps_x = fitted(x, AFFINE)
        with pytest.raises(InputError, match=r"weights have steps \[3, 2\]"):
            integer_linear(quantise(x, steps_x, AFFINE), steps_x, quantise(w, steps, grid), steps)

    def test_pairs_that_saturate(self):
        # The instruction itself: products of u8 and s8 are added in pairs and clipped to 16 bits.
        def clipped(activation, weight):
            return int(np.clip(2 * activation * weight, -(2**15), 2**15 - 1))

        eight, seven = Grid(8), Grid(7)
        assert clipped(255, eight.highest) != 2 * 255 * eight.highest
        assert clipped(255, seven.lowest) == 2 * 255 * seven.lowest
        assert overflows(eight, AFFINE)
        assert not overflows(seven, AFFINE)
        assert not overflows(Grid(7, symmetric=False), AFFINE)
        assert not overflows(eight, Grid(7, symmetric=False))


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"bits": 9}, "9 bits"),
            ({"bits": 1}, "1 bits"),
            ({"per": "group"}, "group None"),
            ({"group": 32}, "per row with group 32"),
            ({"per": "group", "group": 0}, "groups of 0"),
            ({"step_bits": 8}, "steps of 8 bits"),
        ],
    )
    def test_grids(self, values, reason):
        with pytest.raises(InputError, match=reason):
            Grid(**values)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_values_that_are_not_finite(self, bad):
        with pytest.raises(NumbersError, match="not finite"):
            fitted(torch.tensor([1.0, bad]), SYMMETRIC)
        with pytest.raises(NumbersError, match="not finite"):
            fit(torch.tensor(0.0), torch.tensor(bad), SYMMETRIC)

    def test_a_range_that_goes_backwards(self):
        with pytest.raises(NumbersError, match="ends before it begins"):
            fit(torch.tensor(1.0), torch.tensor(-1.0), SYMMETRIC)

    def test_groups_that_do_not_come_out_even(self):
        with pytest.raises(InputError, match=r"rows of 576 values .* groups of 128: choose groups of 64, 32, 16, 8"):
            fitted(torch.randn(2, 576), Grid(4, per="group", group=128))
        with pytest.raises(InputError, match="choose one step per row"):
            fitted(torch.randn(2, 7), Grid(4, per="group", group=4))
