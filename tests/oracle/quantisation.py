"""Slow references of quantisation: one value at a time, in double precision, as it is written on paper."""

from __future__ import annotations

import math
from collections.abc import Sequence


def half_even(value: float) -> int:
    return round(value)


def limits(bits: int, symmetric: bool) -> tuple[int, int]:
    highest = 2 ** (bits - 1) - 1
    return (-highest if symmetric else -highest - 1), highest


def steps(low: float, high: float, bits: int, symmetric: bool) -> tuple[float, int]:
    lowest, highest = limits(bits, symmetric)
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return max(-low, high) / highest or 1.0, 0
    step = (high - low) / (highest - lowest) or 1.0
    return step, max(lowest, min(highest, half_even(lowest - low / step)))


def code(value: float, step: float, zero: int, bits: int, symmetric: bool) -> int:
    lowest, highest = limits(bits, symmetric)
    return max(lowest, min(highest, half_even(value / step) + zero))


def back(value: float, step: float, zero: int, bits: int, symmetric: bool) -> float:
    return step * (code(value, step, zero, bits, symmetric) - zero)


def squared_error(values: Sequence[float], low: float, high: float, bits: int, symmetric: bool) -> float:
    step, zero = steps(low, high, bits, symmetric)
    return math.fsum((value - back(value, step, zero, bits, symmetric)) ** 2 for value in values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies, interpolated between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    before = math.floor(place)
    after = min(before + 1, len(ordered) - 1)
    return ordered[before] + (place - before) * (ordered[after] - ordered[before])


def entropy_bins(counts: Sequence[int], levels: int) -> int:
    """How many bins of a histogram of |x| to keep: Migacz 2017, the calibration of TensorRT, loop by loop."""
    best, kept = math.inf, len(counts)
    for end in range(levels, len(counts) + 1):
        reference = [float(one) for one in counts[:end]]
        merged = [0.0] * end
        size = end // levels
        for level in range(levels):
            start, stop = level * size, end if level == levels - 1 else (level + 1) * size
            filled = [at for at in range(start, stop) if counts[at]]
            for at in filled:
                merged[at] = sum(counts[start:stop]) / len(filled)
        reference[-1] += sum(counts[end:])
        total, other = sum(reference), sum(merged)
        divergence = 0.0
        for p, q in zip(reference, merged, strict=True):
            if p and not q:
                divergence = math.inf
            elif p:
                divergence += p / total * math.log((p / total) / (q / other))
        if divergence < best:
            best, kept = divergence, end
    return kept
