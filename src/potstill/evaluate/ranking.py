"""Who was better, and whether that can be said: paired differences over seeds, bounded together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from potstill.evaluate.interval import Estimate, student_t

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Standing:
    """One arm. values: by seed. rank: 1 + how many arms are distinguishably better. like: better placed ones that it
    cannot be told from."""

    name: str
    values: tuple[float, ...]
    estimate: Estimate
    rank: int
    like: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """standings: best mean first. differences: (one, other) -> values of one minus those of the other, seed by seed,
    with an interval at `level`, so wide that with 95 % confidence all of them hold at once."""

    standings: tuple[Standing, ...]
    differences: Mapping[tuple[str, str], Estimate]
    level: float


def rank(values: Mapping[str, Sequence[float]], *, higher_is_better: bool) -> Ranking:
    """Rank arms that ran over the same seeds.

    Two arms are told apart where the interval of their paired difference (Student's t over seeds) leaves 0 out. With m
    pairs each interval is taken at 1 - 0.05 / m (Bonferroni), so that the whole ranking errs in one of twenty
    comparisons at most, not each pair. Raises ValueError for arms with different seeds or fewer than two.
    """
    if len({len(one) for one in values.values()}) != 1 or min(map(len, values.values())) < 2:
        raise ValueError(f"each arm needs the same seeds, two or more: { ({k: len(v) for k, v in values.items()}) }")
    sign = 1 if higher_is_better else -1
    order = sorted(values, key=lambda name: -sign * sum(values[name]))
    pairs = list(combinations(order, 2))
    level = 1 - (1 - LEVEL) / max(1, len(pairs))
    differences = {
        (one, other): student_t([a - b for a, b in zip(values[one], values[other], strict=True)], level)
        for one, other in pairs
    }
    standings = []
    for place, name in enumerate(order):
        apart = [
            sign * differences[ahead, name].value > 0 and _excludes_zero(differences[ahead, name])
            for ahead in order[:place]
        ]
        standings.append(
            Standing(
                name,
                tuple(values[name]),
                student_t(list(values[name])),
                1 + sum(apart),
                tuple(ahead for ahead, told in zip(order[:place], apart, strict=True) if not told),
            )
        )
    return Ranking(tuple(standings), differences, level)


def _excludes_zero(estimate: Estimate) -> bool:
    return estimate.low > 0 or estimate.high < 0
