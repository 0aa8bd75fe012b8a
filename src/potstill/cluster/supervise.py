"""Keep the programs of a job running until the work is done. Knows no Ray: where programs run is handed in.

A job that ends with code 0 is done. One that fails, or whose machine is lost, is started again with the same words: the
programs of this package go on from what they saved. The whole job ends when its work is done, when something failed too
often, or when a signal asks it to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from potstill.cluster.settings import HOST, ClusterSettings, ProgramSettings
from potstill.core.errors import RunError

WRONG_INPUT = 2
POLL_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
TAIL_LINES = 8


@dataclass(frozen=True, slots=True)
class State:
    """A look at a running program: lines it wrote since the last look, and how it ended (None: it runs). An end without
    a code is one that nobody saw: a machine was lost."""

    lines: tuple[str, ...] = ()
    ended: bool = False
    code: int | None = None
    reason: str = ""


@runtime_checkable
class Placed(Protocol):
    """A program that was given its machines."""

    @property
    def hosts(self) -> Sequence[str] | None:
        """Their addresses, once there are any; None while it waits for room."""

    def look(self) -> State:
        """What happened since."""

    def stop(self, grace_seconds: float) -> tuple[str, ...]:
        """Ask it to end, kill it when it does not; its last lines."""


@dataclass(frozen=True, slots=True)
class Start:
    """What is started: words and variables with the addresses filled in."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


Place = Callable[[str, ProgramSettings, Start], Placed]


@dataclass(slots=True)
class _Program:
    """One program over all its lives. due: when it may be started again."""

    name: str
    settings: ProgramSettings
    placed: Placed | None = None
    failures: int = 0
    due: float = 0.0
    done: bool = False
    waiting: bool = False
    tail: list[str] = field(default_factory=list)
    told_hosts: Mapping[str, str] = field(default_factory=dict)


class Supervisor:
    """The programs of one job. say: one line for a person. poll: raises when a signal came."""

    def __init__(
        self,
        job: ClusterSettings,
        place: Place,
        *,
        say: Callable[[str], None],
        poll: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._job, self._place, self._say, self._poll = job, place, say, poll
        self._clock, self._sleep = clock, sleep
        self._programs = {name: _Program(name, settings) for name, settings in job.programs.items()}

    def run(self) -> None:
        """Until all that is no service is done. Raises RunError when a program failed too often. Whatever still runs at
        the end is stopped, services last: they may be needed for a last save."""
        try:
            while not all(one.done for one in self._programs.values() if not one.settings.service):
                self._poll()
                for one in self._programs.values():
                    self._tend(one)
                self._sleep(POLL_SECONDS)
        finally:
            for one in sorted(self._programs.values(), key=lambda one: one.settings.service):
                self._stop(one)

    def _tend(self, one: _Program) -> None:
        if one.done:
            return
        if one.placed is None:
            hosts = self._hosts(one)
            if hosts is not None and self._clock() >= one.due:
                one.told_hosts, one.waiting = hosts, True
                one.placed = self._place(one.name, one.settings, filled(one.settings, hosts))
            return
        self._announce(one)
        state = one.placed.look()
        self._hear(one, state.lines)
        if state.ended:
            one.placed = None
            self._ended(one, state)
        elif self._hosts(one) not in (None, one.told_hosts):
            self._say(f"{one.name}: a program that it asks has moved; it is started again")
            self._stop(one)

    def _announce(self, one: _Program) -> None:
        if one.waiting and one.placed is not None and (hosts := one.placed.hosts) is not None:
            one.waiting = False
            self._say(f"{one.name}: started on {', '.join(hosts)}")

    def _hosts(self, one: _Program) -> dict[str, str] | None:
        """The addresses that its command needs, or None while one of them is not known."""
        found = {}
        for name in one.settings.leans_on:
            placed = self._programs[name].placed
            if placed is None or placed.hosts is None:
                return None
            found[name] = placed.hosts[0]
        return found

    def _ended(self, one: _Program, state: State) -> None:
        if state.code == 0 and not one.settings.service:
            one.done = True
            self._say(f"{one.name}: done")
            return
        how = state.reason or f"exit code {state.code}"
        one.failures += 1
        # Later the input was right once: a run folder may still be held by a life that is about to end.
        wrong = state.code == WRONG_INPUT and one.failures == 1
        if wrong or one.failures > one.settings.restarts:
            why = "wrong input is not tried again" if wrong else f"failed {one.failures} times"
            said = "".join(f"\n  {line}" for line in one.tail[-TAIL_LINES:])
            raise RunError(f"{one.name} ended ({how}; {why}), so the job was stopped. Its last lines:{said}")
        wait = min(LONGEST_WAIT_SECONDS, 2.0 ** (one.failures - 1))
        one.due = self._clock() + wait
        left = one.settings.restarts - one.failures
        self._say(f"{one.name}: ended ({how}); started again in {wait:.0f} s, {left} restarts are left")

    def _hear(self, one: _Program, lines: Sequence[str]) -> None:
        for line in lines:
            self._say(f"{one.name} | {line}")
        one.tail = [*one.tail, *lines][-TAIL_LINES:]

    def _stop(self, one: _Program) -> None:
        if one.placed is not None:
            self._hear(one, one.placed.stop(self._job.grace_seconds))
            one.placed = None


def filled(settings: ProgramSettings, hosts: Mapping[str, str]) -> Start:
    """The command and the variables of a program with the addresses in their places."""

    def fill(word: str) -> str:
        return HOST.sub(lambda found: hosts[found[1]], word)

    variables = {name: fill(value) for name, value in settings.environment.items()}
    return Start(tuple(fill(word) for word in settings.command), variables)
