"""Eight bits: near, whatever the width of the channels, and never a number that was not there."""

import pytest
import torch

from potstill.teachers.int8 import STEPS, channel_scales, dequantise, quantise


def through(states, channels):
    codes, scales = quantise(states, channels)
    return dequantise(codes, scales, channels)


def relative(states, channels):
    return float((through(states, channels) - states).norm() / states.norm())


@pytest.fixture
def wide():
    """Sixty quiet channels and four that are 25 times as wide, as last states have (performance.md, b)."""
    torch.manual_seed(0)
    widths = torch.ones(64)
    widths[::16] = 25.0
    return torch.randn(500, 64) * widths


def test_known_values():
    codes, scales = quantise(torch.tensor([[127.0, -63.6, 0.0]]), torch.ones(3))
    assert codes.tolist() == [[127, -64, 0]]
    assert scales.tolist() == [1.0]


def test_channel_scales_are_the_root_mean_square():
    assert channel_scales(torch.tensor([[3.0, 0.0, 1.0], [-4.0, 0.0, 1.0]])).tolist() == pytest.approx(
        [12.5**0.5, 1, 1]
    )
    assert channel_scales(torch.zeros(4, 2)).tolist() == [1.0, 1.0]


def test_static_scales_are_worth_more_than_any_bit(wide):
    """The quiet channels keep their digits: their error falls by more than ten times, at the same bytes."""
    quiet = torch.arange(64) % 16 != 0
    plain, scaled = through(wide, torch.ones(64)), through(wide, channel_scales(wide[:100]))
    before, after = ((one[:, quiet] - wide[:, quiet]).norm() for one in (plain, scaled))
    assert after < before / 10


def test_half_a_step_is_the_largest_error(wide):
    channels = channel_scales(wide)
    codes, scales = quantise(wide, channels)
    step = scales.float().unsqueeze(1) * channels
    error = (dequantise(codes, scales, channels) - wide).abs()
    assert (error <= 0.51 * step).all()
    assert int(codes.min()) >= -STEPS


@pytest.mark.parametrize("factor", [1e-20, 1e-6, 1e-2, 1.0, 1e4, 1e6])
def test_any_width_stays_finite(factor):
    torch.manual_seed(0)
    states = torch.randn(8, 16) * factor
    back = through(states, torch.ones(16))
    assert torch.isfinite(back).all()
    assert (back.sign() * states.sign() >= 0).all()
    if factor >= 1e-2:
        assert relative(states, torch.ones(16)) < 0.01


def test_zero_stays_zero():
    assert not through(torch.zeros(2, 4), torch.ones(4)).any()
    assert through(torch.zeros(0, 4), torch.ones(4)).shape == (0, 4)
