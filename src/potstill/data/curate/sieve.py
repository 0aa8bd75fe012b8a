"""Rows through stages, a few at a time: what a stage drops is counted under its reason; nothing else goes missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

from potstill.data.curate.candidate import Candidate

ROWS_AT_ONCE = 64
# Of each row, the row with what was found out about it, or the reason to drop it.
Decision = Candidate | tuple[Candidate, str]
Stage = Callable[[Sequence[Candidate]], Sequence[Decision]]
Dropped = Callable[[Candidate, str, str], None]


@dataclass(slots=True)
class StageCount:
    """entered = left + all that was dropped, by reason."""

    stage: str
    entered: int = 0
    left: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def keep(self) -> None:
        """One row more that stays."""
        self.entered += 1
        self.left += 1

    def drop(self, reason: str) -> None:
        """One row more that goes."""
        self.entered += 1
        self.dropped[reason] += 1

    def told(self) -> Mapping[str, Any]:
        """For the record."""
        return {
            "stage": self.stage,
            "in": self.entered,
            "out": self.left,
            "dropped": dict(sorted(self.dropped.items())),
        }


def sieved(
    candidates: Iterable[Candidate],
    stages: Mapping[str, Stage],
    counts: Mapping[str, StageCount],
    dropped: Dropped,
    poll: Callable[[], None] = lambda: None,
) -> Iterator[Candidate]:
    """The rows that pass every stage, in order. dropped: told of each row that does not, with stage and reason. poll:
    called before each few rows; raises to stop."""
    waiting = iter(candidates)
    while some := list(islice(waiting, ROWS_AT_ONCE)):
        poll()
        for name, stage in stages.items():
            passed = []
            for decision in stage(some):
                if isinstance(decision, Candidate):
                    counts[name].keep()
                    passed.append(decision)
                else:
                    counts[name].drop(decision[1])
                    dropped(decision[0], name, decision[1])
            some = passed
        yield from some


def each(decide: Callable[[Candidate], Decision]) -> Stage:
    """A stage that looks at one row at a time."""
    return lambda some: [decide(candidate) for candidate in some]


def conserved(counts: Sequence[StageCount]) -> bool:
    """Whether no row was lost or counted twice, within a stage and from one to the next."""
    within = all(one.entered == one.left + one.dropped.total() for one in counts)
    return within and all(one.left == following.entered for one, following in pairwise(counts))
