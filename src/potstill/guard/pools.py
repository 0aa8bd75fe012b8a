"""Accounts that share a prompt template, seen as one: a harvest dealt to many accounts shows only there.

A template leaves the same first or last words in every prompt. Both ends of a prompt are counted by Space-Saving
(Metwally et al. 2005): a fixed number of counters; a new end takes the place of the rarest one and its count, so that
no end that is truly frequent is missed. An end that several accounts share becomes a pool, with a window of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from potstill.guard.logformats import Query

ENDS = 4096
"""Ends of prompts that are counted at once."""
WORDS = 5
LEAST_ACCOUNTS = 3
NAMED = 1000
"""Accounts of a pool that are kept by name; of those beyond it only the number is known."""

_WORD = re.compile(r"\w+")
_DIGITS = re.compile(r"\d+")


@dataclass(slots=True)
class End:
    """rows: counted, at most `excess` of them too many. accounts: rows of each."""

    rows: int = 0
    excess: int = 0
    accounts: dict[str, int] = field(default_factory=dict)


def ends(prompt: str) -> list[str]:
    """The first and the last WORDS words, numbers masked; nothing for a prompt so short that both would overlap."""
    head = _WORD.findall(_DIGITS.sub("0", prompt[:200].lower()))
    tail = _WORD.findall(_DIGITS.sub("0", prompt[-200:].lower()))
    if len(prompt) <= 200 and len(head) < 2 * WORDS:
        return []
    found = [("^", head[:WORDS]), ("$", tail[-WORDS:])]
    return [f"{side} {' '.join(words)}" for side, words in found if len(words) == WORDS]


class Pools:
    """Which pools a row belongs to. Ends are counted for a day, and forgotten with it."""

    def __init__(self) -> None:
        self._day = -1
        self._forget()

    def see(self, query: Query, day: int) -> Iterator[tuple[str, End]]:
        """Take one row; yields the ends that it shares with enough other accounts."""
        if day > self._day:
            self._day = day
            self._forget()
        for name in ends(query.prompt):
            end = self._ends.get(name) or self._taken_up(name)
            self._leave(name, end)
            end.rows += 1
            self._least = min(self._least, end.rows)
            self._buckets.setdefault(end.rows, {})[name] = None
            if query.account in end.accounts or len(end.accounts) < NAMED:
                end.accounts[query.account] = end.accounts.get(query.account, 0) + 1
            if len(end.accounts) >= LEAST_ACCOUNTS:
                yield name, end

    def _forget(self) -> None:
        self._ends: dict[str, End] = {}
        self._buckets: dict[int, dict[str, None]] = {}
        self._least = 1

    def _taken_up(self, name: str) -> End:
        excess = 0
        if len(self._ends) >= ENDS:
            while not self._buckets.get(self._least):
                self._least += 1
            excess = self._least
            rarest = next(iter(self._buckets[excess]))
            self._leave(rarest, self._ends.pop(rarest))
        end = self._ends[name] = End(excess, excess)
        self._buckets.setdefault(excess, {})[name] = None
        return end

    def _leave(self, name: str, end: End) -> None:
        bucket = self._buckets[end.rows]
        del bucket[name]
        if not bucket:
            del self._buckets[end.rows]
