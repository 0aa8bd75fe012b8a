"""Tables of several seeds: means with Student's 95 % interval, and differences that are taken seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from potstill.evaluate.interval import student_t

# By arm, one mapping of measures per seed; every arm has the seeds in the same order.
Found = Mapping[str, Sequence[Mapping[str, float]]]


def table(found: Found, columns: Sequence[str]) -> list[str]:
    """Markdown: a row per arm, a column per measure."""
    lines = [f"| arm | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for arm, runs in found.items():
        lines.append(f"| {arm} | {' | '.join(cell([one[name] for one in runs]) for name in columns)} |")
    return lines


def cell(values: Sequence[float]) -> str:
    """The mean and half of the interval; the mean alone where nothing varies or one seed is all there is."""
    mean = sum(values) / len(values)
    if len(values) < 2 or max(values) == min(values):
        return f"{mean:.4g}"
    return f"{mean:.4g} ± {student_t(list(values)).high - mean:.2g}"


def differences(found: Found, pairs: Sequence[tuple[str, str]], measures: Sequence[str]) -> list[str]:
    """Each pair's first arm minus its second, measure by measure. Arms that did not run are left out."""
    return [
        claim(
            f"{name}: {arm} minus {other}", [a[name] - b[name] for a, b in zip(found[arm], found[other], strict=True)]
        )
        for arm, other in pairs
        if arm in found and other in found
        for name in measures
    ]


def claim(what: str, values: Sequence[float]) -> str:
    """One line: the mean, the interval and every seed's own value."""
    return f"- {what}: {interval(values)} (seeds: {', '.join(f'{value:.4g}' for value in values)})"


def interval(values: Sequence[float]) -> str:
    """The mean with its interval, or one seed's value, which has none."""
    if len(values) < 2:
        return f"{values[0]:.4g} (no interval)"
    estimate = student_t(list(values))
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
