"""The ranks of one training: alone, or many processes that do the same in the same order.

Every rank reads, decides and computes alike; only the rows of a step are shared out, and only the leader writes. What
could differ between machines (a clock, a file, a figure that decides) is the leader's word. Between ranks go tensors
and JSON, never pickles, which rules out torch's object collectives.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from potstill.core.batch import Batch
from potstill.core.errors import (
    CheckpointError,
    DataError,
    DiskError,
    FolderError,
    InputError,
    ModelError,
    NumbersError,
    PotstillError,
    RunError,
    SignalError,
    Stopped,
    TeacherAway,
    TeacherError,
)
from potstill.core.protocols import Forward
from potstill.train.shards import Answer, spread

T = TypeVar("T")
ERRORS: Mapping[str, type[PotstillError]] = {
    one.__name__: one
    for one in (
        *(InputError, DataError, ModelError, SignalError, FolderError),
        *(RunError, NumbersError, TeacherError, CheckpointError, DiskError),
    )
}


class Alone:
    """One process: nobody to ask."""

    rank, size, leads = 0, 1, True

    def part(self, number: int, batch: Batch, of: int) -> Batch | None:
        """What this rank computes of the micro-batch with this number, of so many in each step."""
        return batch

    def first(self, value: Any) -> Any:
        """The value of the lowest rank that has one (JSON, not None), on every rank."""
        return value

    def signal(self, number: int | None) -> int | None:
        """The same for a stop signal, which counts for this rank alone while it works for itself."""
        return number

    def lead(self, action: Callable[[], T]) -> T:
        """What the leader's action returned (JSON), on every rank; what it raised, every rank raises."""
        return action()

    def everywhere(self, action: Callable[[], T]) -> T:
        """Act on every rank; where it fails on one, all raise that failure."""
        return action()

    def conclude(self, action: Callable[[], None]) -> None:
        """The leader acts for as long as it takes, while the others wait for it."""
        action()

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over the ranks, by name."""
        return dict(values)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over the ranks; all have as many, in the same order."""

    def each(self, data: bytes) -> list[bytes]:
        """What every rank has, by rank."""
        return [data]

    def clock(self) -> float:
        """The leader's seconds, so that what is timed is decided alike."""
        return time.perf_counter()

    def spread(self, module: nn.Module, answer: Answer) -> tuple[nn.Module, Forward]:
        """The module to train, and its forward."""
        return module, partial(answer, module)


class Many:
    """One of several processes, in a process group whose collectives work on CPU tensors.

    Inside `lead`, `everywhere` and `conclude` a rank works for itself: no collective may be called there.
    """

    def __init__(self, rank: int, size: int, concluded: Callable[[bool], None]):
        """concluded: the leader says with True that it is done, the others wait for that with False."""
        self.rank, self.size, self.leads = rank, size, rank == 0
        self._concluded = concluded
        self._for_itself = False

    def part(self, number: int, batch: Batch, of: int) -> Batch | None:
        """Whole micro-batches where they can be dealt out evenly, else some rows of each: as many for every rank."""
        if of % self.size == 0:
            return batch if number % self.size == self.rank else None
        return cut(batch, self.rank, self.size)

    def first(self, value: Any) -> Any:
        """See Alone."""
        speaker = torch.tensor(self.size if value is None else self.rank)
        dist.all_reduce(speaker, dist.ReduceOp.MIN)
        if int(speaker) == self.size:
            return None
        return json.loads(self._said(json.dumps(value).encode(), int(speaker)))

    def signal(self, number: int | None) -> int | None:
        """See Alone."""
        return number if self._for_itself else self.first(number)

    def lead(self, action: Callable[[], T]) -> T:
        """See Alone."""
        value, failure = self._tried(action) if self.leads else (None, None)
        mine = {"value": value} if failure is None else failed(failure)
        told = json.loads(self._said(json.dumps(mine).encode(), 0))
        if "value" in told:
            return told["value"]
        raise failure or rebuilt(told)

    def everywhere(self, action: Callable[[], T]) -> T:
        """See Alone."""
        value, failure = self._tried(action)
        told = self.first(None if failure is None else {**failed(failure), "rank": self.rank})
        if told is None:
            return value
        raise failure if failure is not None and told["rank"] == self.rank else rebuilt(told)

    def _tried(self, action: Callable[[], T]) -> tuple[Any, PotstillError | None]:
        self._for_itself = True
        try:
            return action(), None
        except PotstillError as error:
            return None, error
        finally:
            self._for_itself = False

    def conclude(self, action: Callable[[], None]) -> None:
        """See Alone. What fails now ends the whole job: there is nothing left to save together."""
        self._for_itself = True
        if self.leads:
            action()
        self._concluded(self.leads)

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """See Alone."""
        names = sorted(values)
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64)
        dist.all_reduce(sums)
        return dict(zip(names, sums.tolist(), strict=True))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """See Alone."""
        for tensor in tensors:
            dist.all_reduce(tensor)

    def each(self, data: bytes) -> list[bytes]:
        """See Alone."""
        return [self._said(data, rank) for rank in range(self.size)]

    def clock(self) -> float:
        """See Alone."""
        now = torch.tensor(time.perf_counter(), dtype=torch.float64)
        dist.broadcast(now, 0)
        return float(now)

    def spread(self, module: nn.Module, answer: Answer) -> tuple[nn.Module, Forward]:
        """See Alone: a slice of each parameter lies here, and the module that was handed in stays whole."""
        return spread(module, answer, self.size)

    def _said(self, data: bytes, by: int) -> bytes:
        size = torch.tensor(len(data))
        dist.broadcast(size, by)
        told = torch.empty(int(size), dtype=torch.uint8)
        if self.rank == by and data:
            told.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(told, by)
        return told.numpy().tobytes()


Ranks = Alone | Many


def share(ranks: Ranks, batches: Sequence[Batch]) -> list[Batch]:
    """What this rank computes of the micro-batches of a step."""
    parts = [ranks.part(number, batch, len(batches)) for number, batch in enumerate(batches)]
    return [part for part in parts if part is not None]


def cut(batch: Batch, rank: int, size: int) -> Batch:
    """Every `size`-th row. A rank that is left without a row gets one whose weights are zero: it must take part in what
    the ranks compute together, and adds nothing."""
    rows = list(range(rank, len(batch.ids), size))
    if rows:
        return batch.take(rows)
    idle = batch.take([0])
    return dataclasses.replace(idle, weights={name: torch.zeros_like(one) for name, one in idle.weights.items()})


def failed(error: PotstillError) -> dict[str, Any]:
    """An error as JSON."""
    if isinstance(error, Stopped):
        return {"stopped": error.exit_code - 128, "message": str(error)}
    known = (*ERRORS.values(), TeacherAway, PotstillError)
    kind = next(one.__name__ for one in type(error).__mro__ if one in known)
    return {"error": kind, "message": str(error)}


def rebuilt(told: Mapping[str, Any]) -> PotstillError:
    """The error of another rank, which says it itself."""
    error: PotstillError
    if "stopped" in told:
        error = Stopped(told["stopped"], told["message"])
    elif told["error"] == TeacherAway.__name__:  # the rank whose teacher it is waits for it
        error = TeacherAway(told["message"], lambda poll: None)
    else:
        error = ERRORS.get(told["error"], RunError)(told["message"])
    error.told = True
    return error
