"""What passed a point in a model, counted: the memory of an observer, of the same size for one batch and for a million.

Bins are a power of two wide, aligned at 0 and merged in pairs when a value beyond the last one comes. Merging is exact,
so the counts do not depend on the order of the batches or on how the rows were batched.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from potstill.core.errors import DataError, NumbersError

HALF = 2048  # bins on each side of 0; between 1,024 and 2,048 of them lie below the largest value of the wider side
_NARROWEST = -100  # the exponent of a range of nothing but zeros


class Histogram:
    """counts: [2 HALF], of values in [(i - HALF) width, (i + 1 - HALF) width). low, high: the exact extremes."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(2 * HALF, np.int64)
        self.low, self.high = math.inf, -math.inf
        self._exponent = _NARROWEST

    @property
    def width(self) -> float:
        """Of a bin."""
        return 2.0**self._exponent / HALF

    @property
    def total(self) -> int:
        """Values seen."""
        return int(self.counts.sum())

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, [2 HALF]."""
        return (np.arange(2 * HALF) - HALF + 0.5) * self.width

    def add(self, values: Tensor, where: str = "a layer") -> None:
        """Count values of any shape. Raises NumbersError, naming the place, when one of them is not finite."""
        if not values.numel():
            return
        values_64 = values.detach().double().flatten()
        low, high = (float(one) for one in values_64.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise NumbersError(
                f"the calibration rows give values that are not finite at {where}, so it has no range: "
                "check the model in fp32 on these rows, and remove the rows that break it"
            )
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(math.frexp(max(-low, high))[1])
        places = (values_64 / self.width).floor_().long().add_(HALF)
        self.counts += torch.bincount(places, minlength=2 * HALF).cpu().numpy()

    def checked(self, where: str = "a layer") -> Histogram:
        """Itself. Raises DataError when nothing was counted."""
        if not self.total:
            raise DataError(
                f"no value was observed at {where}: the calibration rows never reach it, or hold only padding; "
                "calibrate on rows that do, or name the layer in `skip`"
            )
        return self

    def _widen(self, exponent: int) -> None:
        if exponent <= self._exponent:
            return
        merged = 2 ** min(exponent - self._exponent, HALF.bit_length())
        places = (np.arange(2 * HALF) - HALF) // merged + HALF
        wider = np.zeros_like(self.counts)
        np.add.at(wider, places, self.counts)
        self.counts, self._exponent = wider, exponent
