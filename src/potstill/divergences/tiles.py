"""What the fused loss asks of an engine: walks over a block of tokens, in ranges of the vocabulary.

An engine holds one block of logits at a time, [tokens of the block, V], or computes them again on each walk. The walks
of different ranges touch different memory, so they may run side by side; whatever is added up over the vocabulary is
added in the fixed order of the ranges, so a result does not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.core.signal import OutputHead
from potstill.divergences.mixtures import Form

RANGES = 8
"""Parts of the vocabulary. Each has its own sum of the gradient of the states, so many would cost memory."""

KEY_BITS, KEY_STEP, BIN_BITS = 24, 2.0**-19, 8
"""A teacher's logit as a whole number: steps below the first choice, 32 nats in all; sorted by 8 bits at a time."""


@dataclass(frozen=True, slots=True)
class Side:
    """Last states of one model, and the head that makes logits of them."""

    states_ND: Float[Tensor, "N D"]
    head: OutputHead


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that is the same for all blocks. store: keep logits between the walks, or compute them again. lends:
    the gradient of the head is wanted, so its place is free until it is written."""

    student: Side
    teacher: Side
    form: Form
    temperature: float
    targets_N: Int[Tensor, " N"] | None
    store: bool
    block: int
    lends: bool = False


def stored(task: Task) -> torch.dtype:
    """How logits are kept between the walks. Half, relative to a running maximum, is far finer than the rounding of a
    bf16 gradient; but total variation asks which of p and q is larger, and half would often answer wrongly."""
    halves = task.student.head.weight_VD.dtype == torch.bfloat16 and not task.form.variation
    return torch.float16 if halves else torch.float32


@dataclass(frozen=True, slots=True)
class Range:
    """Part of the vocabulary; index: its place among the RANGES."""

    index: int
    first: int
    last: int


def ranges(entries: int) -> list[Range]:
    """The vocabulary in at most RANGES parts of equal size."""
    size = -(-entries // RANGES)
    return [Range(index, first, min(first + size, entries)) for index, first in enumerate(range(0, entries, size))]


@dataclass(frozen=True, slots=True)
class Stats:
    """Sums over the vocabulary for each token of a block, relative to the running maxima.

    gap_s: sum of e^(s - max_s) (s - t); gap_t: sum of e^(t - max_t) (t - s); s, t are logits over T. sum_hard: of
    e^(T (s - max_s)), when targets are given; target: s at the target, 0 where it lies in another range.
    """

    max_s: Float[Tensor, " n"]
    sum_s: Float[Tensor, " n"]
    max_t: Float[Tensor, " n"]
    sum_t: Float[Tensor, " n"]
    gap_s: Float[Tensor, " n"]
    gap_t: Float[Tensor, " n"]
    sum_hard: Float[Tensor, " n"]
    target: Float[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class Totals:
    """The normalisers of each token of a block: log q = (s - student_top) - student_log, and so for the teacher; of the
    student at T = 1, log q = T (s - student_top) - hard_log."""

    student_top: Float[Tensor, " n"]
    student_log: Float[Tensor, " n"]
    teacher_top: Float[Tensor, " n"]
    teacher_log: Float[Tensor, " n"]
    hard_log: Float[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class Slopes:
    """For each token: dloss/dlogit_v = soft (f (q_v - p_v) + r q_v (log q_v - log p_v - offset)) for a form of KLs,
    soft q_v (g_v - offset) for any other, plus hard (q1_v - [v is the target])."""

    forward: Float[Tensor, " n"]
    reverse: Float[Tensor, " n"]
    offset: Float[Tensor, " n"]
    soft: Float[Tensor, " n"]
    hard: Float[Tensor, " n"]


@runtime_checkable
class Engine(Protocol):
    """One block after the other: `begin`, then walks over each range in the order they are listed here."""

    @property
    def workers(self) -> int:
        """How many walks of different ranges may run at once."""
        ...

    def begin(self, first: int, last: int) -> None:
        """Take the tokens [first, last) as the block."""
        ...

    def logits(self, part: Range) -> Stats:
        """The logits of a range and their sums."""
        ...

    def fix(self, totals: Totals) -> None:
        """The log-normalisers, once all ranges are summed."""
        ...

    def mass(self, part: Range, shift: int, prefix: Int[Tensor, " n"]) -> Tensor:
        """[2^BIN_BITS, n]: the teacher's mass by the bits of the key above `shift`, among keys that begin with
        `prefix`."""
        ...

    def fix_head(self, head_keys: Int[Tensor, " n"]) -> None:
        """Entries of the teacher whose key is below these are the head of its distribution."""
        ...

    def sums(self, part: Range, which: Literal["slopes", "gaps"]) -> Tensor:
        """[2, n]: the value of the form's mixtures and sum_v q_v g_v; or |p - q| over the head and over everything."""
        ...

    def slope(self, slopes: Slopes) -> None:
        """What the gradient needs to know of each token."""
        ...

    def gradients(self, part: Range) -> None:
        """Add the gradients of a range to what the engine holds."""
        ...

    def end(self) -> None:
        """The block is done: its gradient of the states is added up."""
        ...

    @property
    def held(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of states, head and bias; None for those that nobody wanted."""
        ...
