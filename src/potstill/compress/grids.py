"""Integers and steps in place of floats: the arithmetic of quantisation, as pure functions.

A grid says how many bits a value gets and which values share a step; steps are what is found for one tensor. Values on
a grid are step * (code - zero). Everything else in this room (observers, fake quantisation, export) calls this file, so
that the codes a model was judged with and the codes that are shipped cannot differ. Rounding is half to even, as in
PyTorch, ONNX and OpenVINO. Krishnamoorthi 2018 (arXiv:1806.08342), section 2; Jacob et al. 2018 (arXiv:1712.05877).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from potstill.core.errors import InputError, NumbersError

# u8 times s8, two products added into 16 bits: what a CPU with AVX2 or AVX-512 but without VNNI does (VPMADDUBSW).
_PAIR_LIMIT = 2**15 - 1
_ACCUMULATOR_LIMIT = 2**31 - 1
# Steps stay normal numbers, so that a value divided by its step never overflows; fp16 has subnormals to 2^-24.
_LEAST = {32: torch.finfo(torch.float32).tiny, 16: 2.0**-24}
_MOST = {32: torch.finfo(torch.float32).max, 16: torch.finfo(torch.float16).max}


@dataclass(frozen=True, slots=True)
class Grid:
    """bits: 2 to 8. symmetric: zero is code 0 and codes reach equally far to both sides, [-127, 127] for 8 bits.

    per: which values share a step: all of the tensor; a row, that is all values along the last axis (the inputs of one
    output channel of a weight [out, in], one token of activations [.., width]); or a group of that many in a row.
    step_bits: a step is stored as fp32 or fp16, and rounded to that before it divides.
    Raises InputError for what does not go together.
    """

    bits: int = 8
    symmetric: bool = True
    per: Literal["tensor", "row", "group"] = "row"
    group: int | None = None
    step_bits: int = 32

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InputError(f"a grid of {self.bits} bits: codes are kept in a byte, so choose 2 to 8 bits")
        if (self.per == "group") != (self.group is not None):
            raise InputError(
                f"a grid per {self.per} with group {self.group}: give a group size with per `group` and nowhere else"
            )
        if self.group is not None and self.group < 1:
            raise InputError(f"groups of {self.group} values: a group has at least one, usually 32, 64 or 128")
        if self.step_bits not in _LEAST:
            raise InputError(f"steps of {self.step_bits} bits: they are stored as fp32 or fp16, so choose 32 or 16")

    @property
    def highest(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1

    @property
    def lowest(self) -> int:
        """The smallest code: one further out than the largest, unless the grid is symmetric."""
        return -self.highest if self.symmetric else -self.highest - 1


@dataclass(frozen=True, slots=True)
class Steps:
    """step and zero of each range: [] per tensor, [.., rows] per row, [.., rows, groups] per group.

    step: fp32 (with the digits of fp16 where the grid stores that). zero: the code that means 0, a whole number in
    fp32; 0 on symmetric grids.
    """

    step: Tensor
    zero: Tensor


def extent(values: Float[Tensor, "*shape"], grid: Grid) -> tuple[Tensor, Tensor]:
    """Least and largest value of each range, in the shape of Steps. Raises NumbersError unless all are finite."""
    ranged = _ranged(values, grid)
    low, high = ranged.amin(-1), ranged.amax(-1)
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise NumbersError(
            "values to quantise are not finite: no step holds NaN or infinity; look for where they arise"
        )
    return low, high


def fit(low: Tensor, high: Tensor, grid: Grid) -> Steps:
    """The steps of ranges from `low` to `high`, which are widened to contain 0.

    Symmetric: step = max(|low|, |high|) / highest. Affine: step = (high - low) / (2^bits - 1),
    zero = clamp(round(lowest - low / step)). A range of nothing but 0 has step 1. Raises NumbersError for ranges that
    are not finite or go backwards.
    """
    if not (torch.isfinite(low).all() and torch.isfinite(high).all() and (low <= high).all()):
        raise NumbersError("a range to quantise is not finite, or ends before it begins: look at the values it is from")
    low_64, high_64 = low.double().clamp(max=0), high.double().clamp(min=0)
    width = torch.maximum(-low_64, high_64) if grid.symmetric else high_64 - low_64
    step = stored(torch.where(width > 0, width / (grid.highest - (0 if grid.symmetric else grid.lowest)), 1.0), grid)
    zero = torch.zeros_like(step)
    if not grid.symmetric:
        zero = (grid.lowest - low_64 / step.double()).round().clamp(grid.lowest, grid.highest).float()
    return Steps(step, zero)


def fitted(values: Float[Tensor, "*shape"], grid: Grid) -> Steps:
    """Steps that hold every value."""
    return fit(*extent(values, grid), grid)


def stored(step: Tensor, grid: Grid) -> Tensor:
    """A step as it is written to the disk: positive, fp32 or rounded to fp16. Returns fp32."""
    held = step.clamp(_LEAST[grid.step_bits], _MOST[grid.step_bits])
    return held.half().float() if grid.step_bits == 16 else held.float()


def quantise(values: Float[Tensor, "*shape"], steps: Steps, grid: Grid) -> Int8[Tensor, "*shape"]:
    """clamp(round(value / step) + zero)."""
    step, zero = spread(steps.step, values, grid), spread(steps.zero, values, grid)
    return ((values / step).round() + zero).clamp(grid.lowest, grid.highest).to(torch.int8)


def dequantise(codes: Int8[Tensor, "*shape"], steps: Steps, grid: Grid) -> Float[Tensor, "*shape"]:
    """step * (code - zero), fp32. Zero comes back as exactly 0."""
    return spread(steps.step, codes, grid) * (codes.float() - spread(steps.zero, codes, grid))


def round_trip(values: Float[Tensor, "*shape"], steps: Steps, grid: Grid) -> Float[Tensor, "*shape"]:
    """The values as the grid holds them; off by step / 2 at most within the range. fp32."""
    return dequantise(quantise(values, steps, grid), steps, grid)


def spread(per_range: Tensor, values: Tensor, grid: Grid) -> Tensor:
    """What there is one of per range, broadcastable against the values."""
    if grid.per == "tensor":
        return per_range
    if grid.per == "row":
        return per_range.unsqueeze(-1)
    return per_range.repeat_interleave(values.shape[-1] // _groups(values, grid), -1)


def gathered(values: Tensor, grid: Grid) -> Tensor:
    """The sum over each range, in the shape of Steps: `spread`, transposed."""
    return _ranged(values, grid).sum(-1)


def integer_linear(
    inputs: Int8[Tensor, "*N K"], input_steps: Steps, weight: Int8[Tensor, "O K"], weight_steps: Steps
) -> Float[Tensor, "*N O"]:
    """A linear layer on codes alone, as an integer kernel computes it; without its bias.

    y = s_w s_x (sum q_w q_x - z_x sum q_w - z_w sum q_x + K z_w z_x), sums in 32-bit integers. Steps are [] or one per
    row, on both sides: a group's step cannot leave the sum over inputs, so weights in groups are for float inputs.
    Raises InputError for them, and where 32 bits could not hold the sum.
    """
    width, apart = weight.shape[-1], (inputs.shape[:-1], weight.shape[:1])
    for name, steps, rows in (("inputs", input_steps, apart[0]), ("weights", weight_steps, apart[1])):
        if steps.step.shape not in (torch.Size([]), rows):
            raise InputError(
                f"{name} have steps {list(steps.step.shape)} and an integer product takes one, or one per row "
                f"{list(rows)}: keep these inputs in floats, or quantise per row"
            )
    if width * 4 * 128 * 128 > _ACCUMULATOR_LIMIT:
        raise InputError(f"{width} inputs: their products may not fit into 32 bits; split the layer")
    x, w = inputs.int(), weight.int()
    zero_x, zero_w = input_steps.zero.int(), weight_steps.zero.int()
    zero_x = zero_x.unsqueeze(-1) if zero_x.dim() else zero_x
    total = x @ w.T - zero_x * w.sum(-1, dtype=torch.int32) - zero_w * x.sum(-1, dtype=torch.int32).unsqueeze(-1)
    total = total + width * zero_w * zero_x
    step_x = input_steps.step.unsqueeze(-1) if input_steps.step.dim() else input_steps.step
    return weight_steps.step * step_x * total.float()


def overflows(weights: Grid, activations: Grid) -> bool:
    """Whether two products of an unsigned activation and a signed weight may exceed 16 bits, and so be clipped by a CPU
    without VNNI: 2 * 255 * 127 does, 2 * 255 * 63 (weights of 7 bits) does not."""
    return 2 * (2**activations.bits - 1) * -weights.lowest > _PAIR_LIMIT


def kept_bits(grid: Grid) -> int:
    """Bits that a code takes on the disk: 2, 4 or 8. Codes of 3 bits are kept in 4, those of 5 to 7 in a byte."""
    return next(size for size in (2, 4, 8) if size >= grid.bits)


def stored_bits(shape: torch.Size, grid: Grid) -> int:
    """Bits of a tensor of this shape on the grid: codes, steps, and zeros where the grid is affine."""
    ranges = torch.empty(shape, device="meta")
    ranges = ranges.numel() // _ranged(ranges, grid).shape[-1]
    return shape.numel() * kept_bits(grid) + ranges * (grid.step_bits + (0 if grid.symmetric else kept_bits(grid)))


def effective_bits(shape: torch.Size, grid: Grid) -> float:
    """Bits per value, with what steps and zeros take: 4 bits in groups of 32 with fp16 steps are 4.5."""
    return stored_bits(shape, grid) / shape.numel()


def _groups(values: Tensor, grid: Grid) -> int:
    """Groups in a row. Raises InputError where they do not come out even: nothing is padded in silence."""
    width, size = values.shape[-1], grid.group or values.shape[-1]
    if width % size:
        fitting = [one for one in (256, 128, 64, 32, 16, 8) if width % one == 0]
        ways = f"groups of {', '.join(map(str, fitting))}" if fitting else "one step per row"
        raise InputError(f"rows of {width} values do not come out even in groups of {size}: choose {ways}")
    return width // size


def _ranged(values: Tensor, grid: Grid) -> Tensor:
    """The values with those of one range along the last axis."""
    if grid.per == "tensor":
        return values.reshape(-1)
    if grid.per == "row":
        return values
    return values.unflatten(-1, (_groups(values, grid), -1))
