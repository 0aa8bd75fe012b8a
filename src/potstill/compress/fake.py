"""Quantisation inside a model that still computes in floats: what it will say on integers, and gradients through it.

Values are put on a grid by the one function of grids.py, so the codes are those that are exported.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from potstill.compress.grids import Grid, Steps, fit, fitted, gathered, round_trip, spread, stored
from potstill.compress.ranges import moved, without_padding


class _OnGrid(torch.autograd.Function):
    """See `on_grid`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, zero: Tensor, grid: Grid, gain: float) -> Tensor:
        held = stored(step.detach(), grid)
        ctx.save_for_backward(values, held, zero)
        ctx.grid, ctx.gain = grid, gain
        return round_trip(values.detach().float(), Steps(held, zero), grid).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        values, held, zero_each = ctx.saved_tensors
        grid: Grid = ctx.grid
        place = values.float() / spread(held, values, grid)
        zero = spread(zero_each, values, grid)
        inside = (place + zero >= grid.lowest) & (place + zero <= grid.highest)
        of_step = None
        if ctx.needs_input_grad[1]:
            ends = (place.round() + zero).clamp(grid.lowest, grid.highest) - zero
            slope = torch.where(inside, place.round() - place, ends)
            of_step = gathered(gradient.float() * slope, grid) * ctx.gain
        return gradient * inside, of_step, None, None, None


def on_grid(values: Float[Tensor, "*shape"], steps: Steps, grid: Grid, gain: float = 1.0) -> Float[Tensor, "*shape"]:
    """The values as the grid holds them, with gradients for values and step.

    Straight through (Bengio et al. 2013, arXiv:1308.3432): the gradient of a value is 1 where
    lowest <= value / step + zero <= highest and 0 elsewhere. Learned step (Esser et al. 2020, arXiv:1902.08153,
    equation 3): that of a step is round(v) - v inside, with v = value / step, and the end of the grid outside, summed
    over the range and multiplied by `gain`.
    """
    return cast(Tensor, _OnGrid.apply(values, steps.step, steps.zero, grid, gain))


def step_gain(count: int, grid: Grid) -> float:
    """1 / sqrt(count * highest): Esser et al. 2020, section 2.2.

    count: values of a weight that share a step; features of an input.
    """
    return 1.0 / math.sqrt(count * grid.highest)


class Padding:
    """The attention mask of the forward pass that runs, so that no observer inside the model sees padding.

    A hook before the forward of the model, and of its base model, which may be called alone.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Takes the mask from the arguments; None where there is none."""
        found = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        self.mask = found.get("attention_mask")


class WeightGrid(nn.Module):
    """The grid of a weight. Its step is fixed, learned (a parameter), or follows the weight at every pass."""

    step: Tensor
    zero: Tensor

    def __init__(self, weight: Tensor, grid: Grid):
        super().__init__()
        self.grid = grid
        self.follows = False
        steps = fitted(weight.detach().float(), grid)
        self.register_buffer("step", steps.step)
        self.register_buffer("zero", steps.zero)
        self._gain = step_gain(weight.numel() // steps.step.numel(), grid)

    def steps(self, weight: Tensor) -> Steps:
        """What the weight is put on the grid with, now; without gradients."""
        if self.follows:
            return fitted(weight.detach().float(), self.grid)
        return Steps(stored(self.step.detach(), self.grid), self.zero)

    def forward(self, weight: Tensor, rows: Tensor | None = None) -> Tensor:
        """The weight on its grid. rows: which rows of the weight these are, where it is not the whole."""
        if self.follows:
            return on_grid(weight, self.steps(weight), self.grid)
        picks = rows is not None and self.grid.per != "tensor"
        steps = Steps(self.step[rows], self.zero[rows]) if picks else Steps(self.step, self.zero)
        return on_grid(weight, steps, self.grid, self._gain)

    def learn(self) -> None:
        """From now on the step is a parameter."""
        _as_parameter(self, "step")

    def fix(self, weight: Tensor) -> None:
        """From now on nothing moves the step."""
        if self.follows:
            steps = self.steps(weight)
            self.step.copy_(steps.step)
            self.zero.copy_(steps.zero)
        self.follows = False
        _as_buffer(self, "step")


class InputGrid(nn.Module):
    """The grid of what a layer reads, one step for all of it: fixed, learned, or a moving average while training."""

    step: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, width: int, grid: Grid, found: tuple[float, float] | None, padding: Padding, where: str):
        """width: features of an input. found: the calibrated range, None where training finds it."""
        super().__init__()
        self.grid, self.padding, self.where = grid, padding, where
        self.moves = False
        self._gain = step_gain(width, grid)
        for name, value in zip(("low", "high"), found or (math.nan, math.nan), strict=True):
            self.register_buffer(name, torch.tensor(value))
        self.register_buffer("step", torch.tensor(1.0))
        self.register_buffer("zero", torch.tensor(0.0))
        if found is not None:
            self._fit()

    @property
    def track_running_stats(self) -> bool:
        """Whether a forward pass in training changes buffers; torch's name for it, by which a step is taken back."""
        return self.moves

    @property
    def ranged(self) -> bool:
        """Whether a range is known."""
        return not bool(self.low.isnan())

    def steps(self) -> Steps:
        """What inputs are put on the grid with, now; without gradients."""
        return Steps(stored(self.step.detach(), self.grid), self.zero)

    def forward(self, values: Tensor) -> Tensor:
        """Inputs [.., width] on the grid. As they are, before any range is known."""
        if self.moves and self.training:
            self._observe(values.detach())
        if not self.ranged:
            return values
        return on_grid(values, Steps(self.step, self.zero), self.grid, self._gain)

    def learn(self) -> None:
        """From now on the step is a parameter."""
        _as_parameter(self, "step")

    def fix(self) -> None:
        """From now on nothing moves the range."""
        self.moves = False
        _as_buffer(self, "step")

    def _observe(self, values: Tensor) -> None:
        seen = without_padding(values, self.padding.mask, self.where)
        if seen.numel():
            low, high = moved(self.low, self.high, seen.float())
            self.low.copy_(low)
            self.high.copy_(high)
            self._fit()

    def _fit(self) -> None:
        steps = fit(self.low, self.high, self.grid)
        self.step.copy_(steps.step)
        self.zero.copy_(steps.zero)


class TokenGrid(nn.Module):
    """A step for each token, found as it passes: nothing to calibrate, nothing to learn, padding touches nobody."""

    def __init__(self, grid: Grid):
        super().__init__()
        self.grid = grid

    def forward(self, values: Tensor) -> Tensor:
        """Inputs [.., width] on the grid of each."""
        return on_grid(values, fitted(values.detach().float(), self.grid), self.grid)


def _as_parameter(module: nn.Module, name: str) -> None:
    value = getattr(module, name)
    if not isinstance(value, nn.Parameter):
        del module._buffers[name]
        module.register_parameter(name, nn.Parameter(value.clone()))


def _as_buffer(module: nn.Module, name: str) -> None:
    value = getattr(module, name)
    if isinstance(value, nn.Parameter):
        del module._parameters[name]
        module.register_buffer(name, value.detach().clone())
