"""Which range of activations the codes should cover: four answers from a calibration set, one from training itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from potstill.compress.grids import Grid, fit, round_trip
from potstill.compress.histogram import HALF, Histogram
from potstill.core.batch import Batch
from potstill.core.errors import DataError, InputError, ModelError

RangeMethod = Literal["min-max", "percentile", "entropy", "mse"]
MOMENTUM = 0.99
_SHRINKS = 100
Range = tuple[float, float]


def chosen_range(histogram: Histogram, method: RangeMethod, grid: Grid, percentile: float = 99.99) -> Range:
    """The range that `method` finds in what was observed. Raises InputError for a percentile that leaves none."""
    if method == "min-max":
        return histogram.low, histogram.high
    if method == "percentile":
        return percentile_range(histogram, percentile)
    if method == "entropy":
        return entropy_range(histogram, grid)
    return least_error_range(histogram, grid)


def percentile_range(histogram: Histogram, percentile: float = 99.99) -> Range:
    """All but the outermost (100 - percentile) % on either side, interpolated within a bin."""
    if not 50 < percentile <= 100:
        raise InputError(f"a percentile of {percentile:g} leaves no range: choose one above 50, at most 100")
    share = 1 - percentile / 100
    return _quantile(histogram, share), _quantile(histogram, 1 - share)


def entropy_range(histogram: Histogram, grid: Grid) -> Range:
    """The threshold T on |x| at which KL(what was seen, clipped at T || the same on the grid's levels) is least.

    Migacz 2017, 8-bit inference with TensorRT, the loop over thresholds: what lies beyond T is counted into its last
    bin, and 2^(bits-1) levels each spread their sum over their bins that are not empty. The innermost bin is given the
    count of its neighbour, as NVIDIA's own calibrator does: exact zeros cost nothing on any grid. The range is [-T, T]
    within what was seen.
    """
    outward = histogram.counts[HALF:] + histogram.counts[:HALF][::-1]
    used = int(np.flatnonzero(outward).max()) + 1
    outward = outward[:used].astype(np.float64)
    outward[0] = outward[min(1, used - 1)]
    end = entropy_bins(outward, 2 ** (grid.bits - 1))
    threshold = end * histogram.width if end < used else max(-histogram.low, histogram.high)
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def entropy_bins(counts: NDArray[np.float64], levels: int) -> int:
    """How many of these bins, from the inside, to keep; all of them where there are no more bins than levels."""
    best, kept = np.inf, len(counts)
    filled = counts > 0
    beyond = counts.sum() - np.cumsum(counts)
    for end in range(levels, len(counts) + 1):
        size = end // levels
        starts = np.arange(levels) * size
        each = np.diff(starts, append=end)
        sums = np.add.reduceat(counts[:end], starts)
        full = np.add.reduceat(filled[:end].astype(np.int64), starts)
        merged = np.repeat(sums / np.maximum(full, 1), each) * filled[:end]
        seen = counts[:end].copy()
        seen[-1] += beyond[end - 1]
        some = seen > 0
        if not some.any() or not (merged[some] > 0).all():
            continue
        p, q = seen[some] / seen.sum(), merged[some] / merged.sum()
        divergence = float((p * np.log(p / q)).sum())
        if divergence < best:
            best, kept = divergence, end
    return kept


def least_error_range(histogram: Histogram, grid: Grid) -> Range:
    """The range with the least mean squared error on the grid, searched among hundredths of either end in turn, twice.

    On a symmetric grid both ends move together. Bins stand for their values, which a step is many times wider than.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    some = histogram.counts > 0
    values = torch.from_numpy(histogram.centres[some].clip(histogram.low, histogram.high))
    counts = torch.from_numpy(histogram.counts[some])
    shrinks = torch.arange(1, _SHRINKS + 1).double() / _SHRINKS
    if grid.symmetric:
        widest = max(-low, high)
        best = _least(values, counts, -widest * shrinks, widest * shrinks, grid)
        threshold = float(widest * shrinks[best])
        return max(low, -threshold), min(high, threshold)
    found_low, found_high = low, high
    for _ in range(2):
        best = _least(values, counts, torch.full_like(shrinks, found_low), high * shrinks, grid)
        found_high = float(high * shrinks[best])
        best = _least(values, counts, low * shrinks, torch.full_like(shrinks, found_high), grid)
        found_low = float(low * shrinks[best])
    return found_low, found_high


def moved(low: Tensor, high: Tensor, seen: Tensor, momentum: float = MOMENTUM) -> tuple[Tensor, Tensor]:
    """An exponential moving average of the ends of batches; `seen` is the newest batch, without padding.

    Jacob et al. 2018 (arXiv:1712.05877), section 3.1. Ends that are NaN have no past: the batch itself is their value.
    """
    least, most = seen.amin(), seen.amax()
    old_low, old_high = torch.where(low.isnan(), least, low), torch.where(high.isnan(), most, high)
    return torch.lerp(least, old_low, momentum), torch.lerp(most, old_high, momentum)


def without_padding(
    values: Float[Tensor, "*N D"], mask_BL: Bool[Tensor, "B L"] | Int[Tensor, "B L"] | None, where: str = "a layer"
) -> Float[Tensor, "M D"]:
    """The vectors of real tokens. A layer that reads one vector per row (behind the pooling) reads no padding.

    Raises ModelError when the vectors are neither per token nor per row of the mask.
    """
    if mask_BL is not None and values.shape[:-1] == mask_BL.shape:
        return values[mask_BL.bool().to(values.device)]
    if mask_BL is not None and values.shape[:-1] != mask_BL.shape[:1]:
        raise ModelError(
            f"{where} reads {list(values.shape)} and the attention mask is {list(mask_BL.shape)}: padding cannot be "
            "told from text there; name the layer in `skip`"
        )
    return values.reshape(-1, values.shape[-1])


def check_calibration(batches: Sequence[Batch | Tensor]) -> None:
    """Raises DataError when there are no rows, no real token, or when every row with a label is of one class."""
    if not batches:
        raise DataError("the calibration set is empty: static ranges of activations need rows, usually 128 to 512")
    told = [batch for batch in batches if isinstance(batch, Batch)]
    if told and not any(bool(batch.attention_BL.any()) for batch in told):
        raise DataError("the calibration set holds nothing but padding: give rows with text")
    classes: set[int] = set()
    rows = 0
    for batch in told:
        if batch.targets_BT.shape[1] == 1:  # a classifier's
            known = batch.targets_BT[batch.weights["hard"] > 0].tolist()
            classes |= set(known)
            rows += len(known)
    if rows > 1 and len(classes) == 1:
        raise DataError(
            f"all {rows} labelled calibration rows are of class {next(iter(classes))}: ranges found on one class clip "
            "the others; draw the rows from all classes"
        )


def _quantile(histogram: Histogram, share: float) -> float:
    below = np.concatenate([[0], np.cumsum(histogram.counts)])
    place = share * histogram.total
    at = min(int(np.searchsorted(below, place, side="right")) - 1, 2 * HALF - 1)
    within = (place - below[at]) / max(int(histogram.counts[at]), 1)
    return float(np.clip((at - HALF + within) * histogram.width, histogram.low, histogram.high))


def _least(values: Tensor, counts: Tensor, low_C: Tensor, high_C: Tensor, grid: Grid) -> int:
    """Which candidate range [C] loses least on these values [N] with their counts [N]; the widest of equals."""
    each = Grid(grid.bits, grid.symmetric, "row", step_bits=grid.step_bits)
    values_CN = values.expand(len(low_C), -1)
    errors_C = (round_trip(values_CN, fit(low_C, high_C, each), each) - values_CN).square() @ counts.double()
    return len(errors_C) - 1 - int(errors_C.flip(0).argmin())
