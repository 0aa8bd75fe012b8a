"""Skills and what they build on: a directed graph without circles. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def circle(prerequisites: Mapping[str, Sequence[str]]) -> list[str]:
    """One circle, from a skill along what it builds on back to it, or nothing. No recursion: chains may be long."""
    done: set[str] = set()
    for start in prerequisites:
        path, waiting = [start], [iter(prerequisites[start])]
        while path and start not in done:
            following = next(waiting[-1], None)
            if following is None:
                done.add(path.pop())
                waiting.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                waiting.append(iter(prerequisites.get(following, ())))
    return []


def sequence(skills: Iterable[str], prerequisites: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """All skills, each after those it builds on; by name where the graph leaves a choice. There must be no circle."""
    found: dict[str, None] = {}
    left = sorted(set(skills) | set(prerequisites) | {one for some in prerequisites.values() for one in some})
    while left:
        ready = next(one for one in left if all(before in found for before in prerequisites.get(one, ())))
        found[ready] = None
        left.remove(ready)
    return tuple(found)
