"""Ray as the one who finds machines: it starts the same programs that a person would, and nothing of theirs crosses it.

Ray sends pickles between its own processes, so whoever reaches its ports runs code there. Tokens are therefore on, the
dashboard listens on this machine alone, and a cluster without tokens is refused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from potstill.cluster.member import Member, command_line
from potstill.cluster.settings import ClusterSettings, ProgramSettings
from potstill.cluster.supervise import Start, State, Supervisor
from potstill.core.errors import InputError, RunError
from potstill.train.stop import StopFlag

AUTH = "RAY_AUTH_MODE"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.2


def run_on_ray(job: ClusterSettings, *, say: Callable[[str], None]) -> None:
    """Run a job to its end, or until a signal comes.

    Raises InputError when Ray is not installed or tokens are switched off, RunError when the cluster cannot be reached
    or a program failed too often, Stopped after a signal.
    """
    directory = str(Path(job.directory or ".").absolute())
    # The flag comes second: Ray puts handlers of its own in place when it starts.
    with connected(job.address, say) as ray, StopFlag() as stop:
        Supervisor(job, lambda *what: OnRay(ray, *what, directory), say=say, poll=stop.check).run()


@contextmanager
def connected(address: str | None, say: Callable[[str], None]) -> Iterator[Any]:
    """Ray, connected to a cluster that asks for tokens."""
    if os.environ.setdefault(AUTH, "token") != "token":
        raise InputError(
            f"{AUTH} is {os.environ[AUTH]}: without tokens whoever reaches the cluster's ports can run anything on it. "
            f"Unset it, or set it to token, on every machine of the cluster"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is not installed: pip install 'potstill[cluster]'") from error
    local = {} if address else {"dashboard_host": LOOPBACK[0]}
    try:
        context = ray.init(address=address or "local", log_to_driver=False, logging_level="warning", **local)
    except (RuntimeError, ConnectionError, ValueError, ray.exceptions.RayError) as error:
        raise RunError(
            f"the Ray cluster at {address or 'this machine'} cannot be used ({error}): start one with "
            f"`{AUTH}=token ray start --head`, the same token on every machine, or leave out `address`"
        ) from error
    try:
        if warning := exposed(context.dashboard_url):
            say(warning)
        yield ray
    finally:
        ray.shutdown()


def exposed(dashboard: str | None) -> str | None:
    """What to say of a dashboard that other machines can reach."""
    host = urlsplit(f"//{dashboard}").hostname if dashboard else None
    if host is None or host in LOOPBACK:
        return None
    return f"warning: Ray's dashboard listens on {dashboard}; start the cluster with --dashboard-host=127.0.0.1"


class OnRay:
    """A program on as many machines as it has nodes: one member on each, all or none."""

    def __init__(self, ray: Any, name: str, settings: ProgramSettings, start: Start, directory: str):
        self._ray, self._settings, self._directory = ray, settings, directory
        self._command, self._environment = start.command, start.environment
        self._hosts: list[str] | None = None
        self._members: list[Any] = []
        needs = {"CPU": settings.cpus, **({"GPU": settings.gpus} if settings.gpus else {}), **settings.resources}
        strategy = "STRICT_SPREAD" if settings.nodes > 1 else "PACK"
        self._room = ray.util.placement_group([needs] * settings.nodes, strategy=strategy)
        self._ready = self._room.ready()

    @property
    def hosts(self) -> Sequence[str] | None:
        """See Placed."""
        return self._hosts

    def look(self) -> State:
        """See Placed. The first end among the members is the end of all."""
        try:
            if self._hosts is None:
                return self._begin()
            seen = self._asked("look", range(len(self._members)))
        except (self._ray.exceptions.RayError, TimeoutError) as error:
            self._leave()
            return State(ended=True, reason=f"its machine is lost: {type(error).__name__}")
        lines = tuple(line for _, text in seen for line in text.splitlines())
        codes = [code for code, _ in seen]
        if (failed := next((code for code in codes if code), None)) is not None:
            lines += self.stop(grace_seconds=1.0)
            return State(lines, ended=True, code=failed)
        if all(code == 0 for code in codes):
            self._leave()
            return State(lines, ended=True, code=0)
        return State(lines)

    def stop(self, grace_seconds: float) -> tuple[str, ...]:
        """See Placed."""
        lines: list[str] = []
        try:
            if self._hosts is not None:
                self._asked("ask_to_stop", range(len(self._members)))
                end = time.monotonic() + grace_seconds
                while time.monotonic() < end:
                    seen = self._asked("look", range(len(self._members)))
                    lines += [line for _, text in seen for line in text.splitlines()]
                    if all(code is not None for code, _ in seen):
                        break
                    time.sleep(POLL_SECONDS)
                self._asked("kill", range(len(self._members)))
        except (self._ray.exceptions.RayError, TimeoutError):
            pass  # its machine is gone, and the program with it
        self._leave()
        return tuple(lines)

    def _begin(self) -> State:
        """Start the members once there is room for all of them."""
        ready, _ = self._ray.wait([self._ready], timeout=0)
        if not ready:
            return State()
        self._ray.get(self._ready)
        settings, remote = self._settings, self._ray.remote(Member)
        placing = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        self._members = [
            remote.options(
                num_cpus=settings.cpus,
                num_gpus=settings.gpus,
                resources=dict(settings.resources),
                scheduling_strategy=placing(placement_group=self._room, placement_group_bundle_index=node),
            ).remote()
            for node in range(settings.nodes)
        ]
        addresses = self._asked("address", range(settings.nodes))
        master, port = addresses[0]
        for node, member in enumerate(self._members):
            line = command_line(
                self._command,
                nodes=settings.nodes,
                ranks_per_node=settings.ranks_per_node,
                node=node,
                master=master,
                port=port,
            )
            threads = str(max(1, settings.cpus // settings.ranks_per_node))
            environment = {"OMP_NUM_THREADS": threads, **self._environment}
            self._ray.get(member.start.remote(line, self._directory, environment), timeout=ANSWER_SECONDS)
        self._hosts = [host for host, _ in addresses]
        return State()

    def _asked(self, what: str, nodes: Sequence[int]) -> list[Any]:
        calls = [getattr(self._members[node], what).remote() for node in nodes]
        return self._ray.get(calls, timeout=ANSWER_SECONDS)

    def _leave(self) -> None:
        for member in self._members:
            self._ray.kill(member)
        self._members = []
        self._ray.util.remove_placement_group(self._room)
