"""How much of the data each pass keeps, and what all passes together cost. No torch.

He et al. 2025, DA-KD (ICML 2025, PMLR 267:22379-22391): the share falls from pass to pass, from the whole data in the
first one. With passes counted from 0 the published budget comes out: ten passes cost 5.5, and 0.55 x 3,570 iterations
are 1,963.5 where the paper took 1,963; counted from 1 it would be 4.5.
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear"]
# A backward pass multiplies twice as much as a forward pass (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
FORWARDS_OF_A_STEP = 3


def share(schedule: Schedule, epoch: int, epochs: int) -> float:
    """The share of the rows that pass `epoch` of `epochs` keeps: (1 + cos(pi e / E)) / 2, or 1 - e / E, e from 0."""
    assert 0 <= epoch < epochs, "a pass of the schedule"
    if schedule == "cosine":
        return (1 + math.cos(math.pi * epoch / epochs)) / 2
    return 1 - epoch / epochs


def budget(schedule: Schedule, epochs: int) -> float:
    """Passes over the data that the whole schedule costs: (E + 1) / 2 for both."""
    return math.fsum(share(schedule, epoch, epochs) for epoch in range(epochs))


def rows_kept(schedule: Schedule, epoch: int, epochs: int, rows: int) -> int:
    """Rows of one pass; at least one."""
    return max(1, round(share(schedule, epoch, epochs) * rows))


def batches(schedule: Schedule, epochs: int, rows: int, batch_size: int) -> int:
    """Batches of all passes; the last, smaller one of a pass counts as one."""
    return sum(math.ceil(rows_kept(schedule, epoch, epochs, rows) / batch_size) for epoch in range(epochs))


def readings(epochs: int, every: int = 1) -> int:
    """How often the student reads all rows: before pass 1 and then before each `every`-th one of `epochs`."""
    return math.ceil((epochs - 1) / every)


def scoring(epochs: int, every: int = 1) -> float:
    """What scoring costs, in passes of training: forwards only. The teacher's one reading is not in it."""
    return readings(epochs, every) / FORWARDS_OF_A_STEP
