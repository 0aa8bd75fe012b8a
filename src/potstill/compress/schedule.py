"""Sparsity as a function of the step: the gradual schedule, a value that holds no model."""

from __future__ import annotations

from dataclasses import dataclass

from potstill.core.errors import ModelError


def cubic(progress: float) -> float:
    """1 - (1 - u)^3 for u in [0, 1], held at its ends outside: fast while much is redundant, slow near the end
    (Zhu and Gupta 2017, arXiv 1710.01878, equation 1)."""
    return 1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GradualSchedule:
    """From `initial` to `final` sparsity in `times` prunings, `every` steps apart, the first of them at step `start`.

    s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, with t_0 = start, dt = every, n = times (Zhu and Gupta 2017).
    Raises ModelError: shares outside [0, 1], a final share below the initial one, a span without a step.
    """

    final: float
    start: int
    every: int
    times: int
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.initial <= self.final <= 1.0:
            raise ModelError(f"sparsity rises from {self.initial} to {self.final}: use 0 <= initial <= final <= 1")
        if self.start < 0 or self.every < 1 or self.times < 1:
            raise ModelError(
                f"start {self.start}, every {self.every}, times {self.times}: use a start of at least 0, and at "
                "least one pruning with one step between two"
            )

    @property
    def end(self) -> int:
        """The step at which the final sparsity is reached."""
        return self.start + self.every * self.times

    def sparsity(self, step: int) -> float:
        """The share of zeros at a step; before the start, the initial one."""
        return self.initial + (self.final - self.initial) * cubic((step - self.start) / (self.end - self.start))

    def due(self, step: int) -> bool:
        """Whether weights are pruned at this step; between two such steps the masks stay as they are."""
        return self.start <= step <= self.end and (step - self.start) % self.every == 0
