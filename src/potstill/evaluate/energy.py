"""Energy of a piece of work: read from the processor's own counter where there is one, else estimated and said so.

The counter is RAPL's, as Linux shows it in /sys/class/powercap: microjoules of a whole processor package, of which
whatever else runs there is a part, counted up to a limit and then from 0 again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
# The counter moves about once a millisecond; work is repeated for so long that this is no part of it.
LEAST_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Counter:
    """Of one package. energy: file with its microjoules. wraps: where it begins again."""

    energy: Path
    wraps: int

    def read(self) -> int:
        """Microjoules now."""
        return int(self.energy.read_text())


@dataclass(frozen=True, slots=True)
class Energy:
    """joules: of one call. method: how they were found, in a sentence. measured: whether a counter was read."""

    joules: float
    method: str
    measured: bool


def counters(root: Path = POWERCAP) -> list[Counter]:
    """The packages' counters that this process may read; reading them often takes the rights of root."""
    found = []
    for folder in sorted(root.glob("intel-rapl:*")):
        if folder.name.count(":") > 1:  # a part of a package, counted in it
            continue
        try:
            one = Counter(folder / "energy_uj", int((folder / "max_energy_range_uj").read_text()))
            one.read()
        except (OSError, ValueError):
            continue
        found.append(one)
    return found


def energy_of(
    action: Callable[[], object],
    *,
    core_watts: float,
    read: Sequence[Counter],
    clock: Callable[[], float] = time.perf_counter,
    processor: Callable[[], float] = time.process_time,
) -> Energy:
    """Joules of one call, over as many calls as LEAST_SECONDS take.

    read: counters; without any, seconds of processor time (of all threads, those that wait busily too) times
    `core_watts`.
    """
    before, busy, start, calls = [one.read() for one in read], processor(), clock(), 0
    while clock() - start < LEAST_SECONDS or calls == 0:
        action()
        calls += 1
    if read:
        spent = sum((one.read() - was) % (one.wraps + 1) for one, was in zip(read, before, strict=True))
        return Energy(spent / 1e6 / calls, f"RAPL counters of {len(read)} package(s), over {calls} calls", True)
    seconds = (processor() - busy) / calls
    return Energy(
        core_watts * seconds,
        f"estimate, no counter can be read: seconds of processor time x {core_watts:g} W (evaluate.cost.core_watts)",
        False,
    )
