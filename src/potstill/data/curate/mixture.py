"""How many rows of each part: shares by temperature or weights, as exact counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fractions import Fraction

from potstill.core.errors import InputError
from potstill.data.curate.settings import MixtureSettings


def shares_of(sizes: Mapping[str, int], settings: MixtureSettings) -> dict[str, Fraction]:
    """The share of each part. Raises InputError for weights of parts that are not there, or parts without one."""
    if settings.weights is None:
        powers = {name: Fraction(size ** (1 / settings.temperature)) for name, size in sizes.items()}
    else:
        if set(settings.weights) != set(sizes):
            raise InputError(
                f"mixture.weights name {', '.join(sorted(settings.weights))}, and the parts with rows left are "
                f"{', '.join(sorted(sizes))}: name these"
            )
        powers = {name: Fraction(weight) for name, weight in settings.weights.items()}
    whole = sum(powers.values())
    return {name: power / whole for name, power in powers.items()}


def counts_of(sizes: Mapping[str, int], settings: MixtureSettings) -> dict[str, int]:
    """Rows of each part, whose sum is the total exactly: quotas rounded down, and what is left to the largest
    remainders. Raises InputError when a part has fewer rows than its count."""
    shares = shares_of(sizes, settings)
    total = settings.total
    if total is None:
        total = int(min(size / shares[name] for name, size in sizes.items()))
    quotas = {name: share * total for name, share in shares.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    by_rest = sorted(quotas, key=lambda name: (counts[name] - quotas[name], name))
    for name in by_rest[: total - sum(counts.values())]:
        counts[name] += 1
    for name, count in counts.items():
        if count > sizes[name]:
            raise InputError(
                f"mixture.total {total:,} needs {count:,} rows of {name}, and {sizes[name]:,} are left: lower total, "
                "or leave it out for the most that needs no row twice"
            )
    return counts


def drawing(seed: int, row: str) -> str:
    """The order in which rows of a part are drawn: by a hash, so that one row more moves no other."""
    return hashlib.sha256(f"{seed}|{row}".encode()).hexdigest()
