"""Self-consistency: of several answers to one question, the one that most of them give (Wang et al. 2022,
arXiv:2203.11171)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Answer = TypeVar("Answer", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Vote:
    """winner: the place of the first answer of the majority, None where nobody answered. votes: how many gave it, of
    `voters` that gave any answer. tied: another answer had as many."""

    winner: int | None
    votes: int
    voters: int
    tied: bool


def majority(
    answers: Sequence[Answer | None], same: Callable[[Answer, Answer], bool] = lambda one, other: one == other
) -> Vote:
    """The most frequent answer. None abstains.

    same: when two answers are one, such as 1/2 and 0.5; an answer joins the first group whose first member it equals.
    Of answers with as many votes the one that was given first wins, so the order of the samples, which follows from
    their seeds, decides and nothing else.
    """
    groups: list[list[int]] = []
    for place, answer in enumerate(answers):
        if answer is None:
            continue
        for group in groups:
            first = answers[group[0]]
            if first is not None and same(first, answer):
                group.append(place)
                break
        else:
            groups.append([place])
    if not groups:
        return Vote(None, 0, 0, False)
    most = max(map(len, groups))
    ahead = [group for group in groups if len(group) == most]
    return Vote(ahead[0][0], most, sum(map(len, groups)), len(ahead) > 1)
