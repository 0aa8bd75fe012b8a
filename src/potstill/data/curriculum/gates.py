"""What is practised now: two rules from measured reach to skills. Each is a value; measuring again gives another one.

The reach of a skill is the student's score on held-out rows of it as a share of the teacher's. After "Pedagogically-
Inspired Data Synthesis" (ICLR 2026, arXiv:2602.12172), whose numbers 0.90 and 0.15 are the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# 0.72 / 0.8 is not 0.9 in binary; half of a row in a million is.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Practice:
    """fresh: skills to be learnt, whose rows all come in a pass. review: mastered ones, of which a share comes."""

    fresh: tuple[str, ...]
    review: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mastery:
    """A skill opens when each skill it builds on is mastered (reach of at least `opens_at`) or has been given up on.

    It stays open, and is fresh again when a later measurement finds it below `opens_at`. waited: measurements of an
    open skill since it was last mastered; at `patience` it is given up: it is practised on, and holds nobody up.
    """

    skills: tuple[str, ...]
    prerequisites: Mapping[str, Sequence[str]]
    opens_at: float = 0.9
    patience: int = 5
    reach: Mapping[str, float] = field(default_factory=dict)
    waited: Mapping[str, int] = field(default_factory=dict)
    given_up: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.opened:
            object.__setattr__(self, "opened", self._open(self.reach, self.given_up))

    def measured(self, reach: Mapping[str, float]) -> Mastery:
        """After another measurement of every skill."""
        waited = {
            one: 0 if self._masters(reach, one) else self.waited.get(one, 0) + (one in self.opened)
            for one in self.skills
        }
        given_up = tuple(
            one for one in self.skills if one in self.given_up or waited[one] >= self.patience
        )  # fmt: skip
        opened = self._open(reach, given_up)
        return replace(self, reach=dict(reach), waited=waited, given_up=given_up, opened=opened)

    def practice(self) -> Practice:
        """Open and not mastered: fresh. Open and mastered: review."""
        mastered = tuple(one for one in self.opened if self._masters(self.reach, one))
        return Practice(tuple(one for one in self.opened if one not in mastered), mastered)

    def state(self) -> dict[str, Any]:
        """What measurements have changed, as JSON."""
        return {
            "reach": dict(self.reach),
            "waited": dict(self.waited),
            "given_up": list(self.given_up),
            "opened": list(self.opened),
        }

    def restored(self, state: Mapping[str, Any]) -> Mastery:
        """With what `state` gave."""
        return replace(
            self,
            reach=dict(state["reach"]),
            waited=dict(state["waited"]),
            given_up=tuple(state["given_up"]),
            opened=tuple(state["opened"]),
        )

    def _masters(self, reach: Mapping[str, float], skill: str) -> bool:
        return reach.get(skill, 0.0) >= self.opens_at - ROUNDING

    def _open(self, reach: Mapping[str, float], given_up: Sequence[str]) -> tuple[str, ...]:
        passed = {one for one in self.skills if self._masters(reach, one) or one in given_up}
        return tuple(
            one
            for one in self.skills
            if one in self.opened or all(before in passed for before in self.prerequisites.get(one, ()))
        )


@dataclass(frozen=True, slots=True)
class Zone:
    """The zone of proximal development: of the skills below `mastered_at`, those whose reach is at most `width` below
    the best of them. A round therefore never holds skills whose reach differs by more than `width`."""

    skills: tuple[str, ...]
    mastered_at: float = 0.9
    width: float = 0.15
    reach: Mapping[str, float] = field(default_factory=dict)

    def measured(self, reach: Mapping[str, float]) -> Zone:
        """After another measurement of every skill."""
        return replace(self, reach=dict(reach))

    def practice(self) -> Practice:
        """Within the zone: fresh. Mastered: review. Nothing was measured yet: everything is fresh."""
        known = {one: self.reach.get(one, 0.0) for one in self.skills}
        left = {one: value for one, value in known.items() if value < self.mastered_at - ROUNDING}
        lowest = max(left.values(), default=0.0) - self.width - ROUNDING
        fresh = tuple(one for one, value in left.items() if value >= lowest)
        return Practice(fresh, tuple(one for one in self.skills if one not in left))

    def state(self) -> dict[str, Any]:
        """What measurements have changed, as JSON."""
        return {"reach": dict(self.reach)}

    def restored(self, state: Mapping[str, Any]) -> Zone:
        """With what `state` gave."""
        return replace(self, reach=dict(state["reach"]))


# A rule, and how far it has come.
Gate = Mastery | Zone
