"""One tree of errors. Each leaf is also a standard exception, and carries the exit code of the command.

A message has the cause, the place and the next step, because whoever reads it has nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class PotstillError(Exception):
    """The root: whatever the user is meant to read, without a traceback.

    told: another process of the same job says it already.
    """

    exit_code = 1
    told = False


class InputError(PotstillError, ValueError):
    """What was handed in cannot be used: exit code 2."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a recipe: where (1-based line and column), which setting, why, and the nearest known name."""

    where: str
    line: int
    column: int
    path: str
    reason: str
    suggestion: str | None = None

    def __str__(self) -> str:
        hint = f" Did you mean `{self.suggestion}`?" if self.suggestion else ""
        name = f"`{self.path}`: " if self.path else ""
        return f"{self.where}:{self.line}:{self.column}: {name}{self.reason}{hint}"


class RecipeError(InputError):
    """A recipe cannot be used; holds every fault, not only the first."""

    def __init__(self, faults: list[Fault]):
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class DataError(InputError):
    """Rows that cannot be learnt from: broken, empty, or outside the declared classes."""


class ModelError(InputError):
    """A model folder that is refused: remote code, pickles, damaged weights, shapes that do not fit."""


class SignalError(InputError):
    """A teacher's signal does not fit what the objective or the student needs."""


class FolderError(InputError):
    """A run folder or name that cannot be used: read-only, held by another process, made by another recipe."""


class TermsError(InputError):
    """Terms of a model, a data set or a service stand in the way, or nobody has answered for them yet.

    about: what was asked for, as plain values, so that an answer can be about the same.
    """

    def __init__(self, message: str, about: Sequence[Mapping[str, Any]] = ()):
        self.about = about
        super().__init__(message)


class GateError(PotstillError):
    """The release gate is closed: a finding stops the student from leaving. Exit code 1."""


class RunError(PotstillError, RuntimeError):
    """The input was right and the run failed: exit code 1."""


class NumbersError(RunError):
    """Losses or gradients that are not finite, more often than the run may skip."""


class TeacherError(RunError):
    """A teacher elsewhere cannot be learnt from: it denies, answers wrongly too often, or is another one now."""


class TeacherAway(TeacherError):
    """No teacher answers at the moment. wait: returns when one is back; it calls what it is handed while it waits."""

    def __init__(self, message: str, wait: Callable[[Callable[[], None]], None]):
        self.wait = wait
        super().__init__(message)


class CheckpointError(RunError):
    """No complete checkpoint can be read."""


class DiskError(RunError):
    """A save could not be finished; earlier saves stand."""


class EndpointError(RunError):
    """Somebody else's server is away, refuses, or answers wrongly more often than the run may bear."""


class Stopped(PotstillError):
    """A signal ended the run after its state was saved: exit code 128 + signal."""

    def __init__(self, signal_number: int, message: str):
        self.exit_code = 128 + signal_number
        super().__init__(message)
