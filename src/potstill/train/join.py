"""How processes become ranks of one job, and how the job ends when one of them fails.

A launcher (torchrun, or anything that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT) starts the same program
several times. A rank that fails leaves its reason in the launcher's store before it goes; the others find the
connection cut, or their patience ended, and look there. A rank that was killed or hangs leaves nothing, and is found
by its silence.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from potstill.core.errors import PotstillError, RunError
from potstill.train.ranks import Alone, Many, Ranks, failed, rebuilt
from potstill.train.stop import StopFlag

# How long the ranks may be apart: longer than the slowest write of a checkpoint, shorter than a person's patience.
TIMEOUT_SECONDS = 600.0
# How long a rank whose connection broke waits to hear why.
GRACE_SECONDS = 5.0
# The same when a launcher that has seen a rank die asks the others to go.
HURRIED_SECONDS = 1.0
POLL_SECONDS = 0.1
AGAIN = "What was saved stands: start the same command again to go on"


@contextmanager
def joined(timeout: float = TIMEOUT_SECONDS) -> Iterator[Ranks]:
    """This process among its ranks; alone unless a launcher started several.

    timeout: seconds after which a rank that does not answer is given up. Raises RunError, with the reason of the rank
    that failed first, when the job cannot go on; what was saved stands.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Alone()
        return
    job = _Job(int(os.environ["RANK"]), size, timeout)
    try:
        job.begin()
        yield Many(job.rank, size, job.concluded)
    except BaseException as error:
        raise job.explained(error) from error
    else:
        dist.destroy_process_group()


class _Job:
    """What the ranks tell each other outside of any collective: key and value, in the launcher's store."""

    def __init__(self, rank: int, size: int, timeout: float):
        self.rank, self.size, self._timeout = rank, size, timeout
        self._store: dist.Store | None = None

    def begin(self) -> None:
        """Meet the others."""
        allowed = timedelta(seconds=self._timeout)
        # The launcher's own name for this, whatever store it brings.
        self._store, _, _ = next(iter(dist.rendezvous("env://", self.rank, self.size, timeout=allowed)))
        self._store.set_timeout(allowed)
        self._store.set(f"who/{self.rank}", f"rank {self.rank} (process {os.getpid()} on {socket.gethostname()})")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        inner = dist.PrefixStore("ranks", self._store)
        dist.init_process_group(backend, store=inner, rank=self.rank, world_size=self.size, timeout=allowed)

    def concluded(self, leads: bool) -> None:
        """The leader is done: say so, or wait for it, however long it takes, as long as it lives."""
        assert self._store is not None
        if leads:
            self._store.set("concluded", "yes")
        while not self._store.check(["concluded"]):
            if (told := self._failure()) is not None:
                raise rebuilt(told)
            time.sleep(POLL_SECONDS)
        self._leave_last("left")

    def explained(self, error: BaseException) -> BaseException:
        """The error to raise here: this rank's own, which the others are told, or why another one broke the job."""
        if self._store is None:
            return RunError(
                f"rank {self.rank} of {self.size} found no others at {os.environ.get('MASTER_ADDR')}:"
                f"{os.environ.get('MASTER_PORT')} within {self._timeout:.0f} s ({error}): start as many ranks as "
                "WORLD_SIZE says, and let them reach that address"
            )
        try:
            return self._broken(error) if _of_a_collective(error) else self._own(error)
        except (RuntimeError, OSError) as lost:  # the store went with its owner
            return (
                error if isinstance(error, PotstillError) else RunError(f"the other ranks are gone ({lost}). {AGAIN}")
            )

    def _own(self, error: BaseException) -> BaseException:
        assert self._store is not None
        if isinstance(error, PotstillError) and error.told:
            self._leave_last("heard")
            return error
        message = str(error) if isinstance(error, PotstillError) else f"{type(error).__name__}: {error}"
        kind = failed(error) if isinstance(error, PotstillError) else {"error": RunError.__name__}
        mine = json.dumps({**kind, "who": self._who(self.rank), "message": message})
        first = json.loads(self._store.compare_set("failure", "", mine))
        self._leave_last("heard")
        if isinstance(error, PotstillError) and first["message"] == message and first["who"] != self._who(self.rank):
            error.told = True
        return error

    def _leave_last(self, mark: str) -> None:
        """The store may be the first rank's: it stays until the others have been there, or for as long as is polite."""
        assert self._store is not None
        self._store.add(mark, 1)
        end = time.monotonic() + GRACE_SECONDS
        while self.rank == 0 and self._store.add(mark, 0) < self.size and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def _broken(self, error: BaseException) -> RunError:
        """Wait a little for the reason; whoever neither gave one nor says that it waits is the one that is missing."""
        assert self._store is not None
        self._store.set(f"waits/{self.rank}", "yes")
        end = time.monotonic() + GRACE_SECONDS
        with StopFlag() as hurry:  # a launcher's SIGTERM must not end the search for the cause
            while time.monotonic() < end and (silent := self._silent()) and self._failure() is None:
                time.sleep(POLL_SECONDS)
                if hurry.signal_number is not None:
                    end = min(end, time.monotonic() + HURRIED_SECONDS)
                    hurry.signal_number = None
        if (told := self._failure()) is not None:
            return RunError(f"{told['who']} failed first: {told['message']}\n{AGAIN}")
        names = ", ".join(self._who(rank) for rank in silent) or "the connection between the ranks"
        if _timed_out(error):
            return RunError(f"{names} did not answer within {self._timeout:.0f} s, so the job was stopped. {AGAIN}")
        return RunError(f"{names} is gone: killed, out of memory, or cut off. {AGAIN}")

    def _silent(self) -> list[int]:
        assert self._store is not None
        return [rank for rank in range(self.size) if not self._store.check([f"waits/{rank}"])]

    def _failure(self) -> dict[str, Any] | None:
        assert self._store is not None
        return json.loads(self._store.get("failure")) if self._store.check(["failure"]) else None

    def _who(self, rank: int) -> str:
        assert self._store is not None
        return self._store.get(f"who/{rank}").decode() if self._store.check([f"who/{rank}"]) else f"rank {rank}"


def _of_a_collective(error: BaseException) -> bool:
    """torch raises bare RuntimeErrors for what happens on the wire."""
    if isinstance(error, PotstillError) or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in text or "nccl" in text or "connection" in text


def _timed_out(error: BaseException) -> bool:
    return "timed out" in str(error).lower() or "timeout" in str(error).lower()
