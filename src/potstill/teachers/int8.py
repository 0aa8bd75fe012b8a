"""Hidden states in eight bits: one scale per channel for the whole run, one scale per token.

A few channels of a language model's last states are 20 to 30 times as wide as the rest; with one scale per token alone
they take most of the 255 steps. Dividing each channel by its usual width first, which is known before the run, costs no
byte and brings the KL down eight to ten times (docs/results/wire.md).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8
from torch import Tensor

STEPS = 127
# fp16 holds 6e-5 to 65504 at full precision; a scale below this would lose its own digits.
_LEAST = 6.2e-5


def channel_scales(states_ND: Float[Tensor, "N D"]) -> Float[Tensor, " D"]:
    """The width of each channel over a calibration slice: its root mean square, fp32.

    Not the largest value: one odd token must not decide the steps of all others. A channel that is zero throughout the
    slice gets the width of the narrowest that is not.
    """
    widths = states_ND.float().square().mean(0).sqrt()
    alive = widths[widths > 0]
    return widths.clamp(min=float(alive.min()) if alive.numel() else 1.0)


def quantise(
    states_ND: Float[Tensor, "N D"], channels_D: Float[Tensor, " D"]
) -> tuple[Int8[Tensor, "N D"], Float[Tensor, " N"]]:
    """Codes in -127..127 and the fp16 scale of each token, so that codes * scale * channels is near the states.

    The scale is rounded before it divides, so that its rounding costs nothing. A token that fp16 cannot scale (all
    zero, or wider than 8 million) gets the nearest scale that it can.
    """
    even = states_ND.float() / channels_D
    scales = (even.abs().amax(1) / STEPS).clamp(_LEAST, torch.finfo(torch.float16).max).half()
    codes = (even / scales.float().unsqueeze(1)).round_().clamp_(-STEPS, STEPS)
    return codes.to(torch.int8), scales


def dequantise(
    codes_ND: Int8[Tensor, "N D"], scales_N: Float[Tensor, " N"], channels_D: Float[Tensor, " D"]
) -> Float[Tensor, "N D"]:
    """fp32 states."""
    return codes_ND.float() * scales_N.float().unsqueeze(1) * channels_D
